"""Several cameras at once: what each of them gives alone."""

import numpy as np
import pytest
import torch

from m2f_ros.pipeline import Frame, Resize

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
ALL = frozenset({"label", "overlay", "confidence"})


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("count", [2, 5])
def test_a_batch_is_one_by_one(pipeline, street, same, count, graphs) -> None:
    pipe, single = (pipeline(precision="fp32", slots=1, graphs=graphs) for _ in range(2))
    frames = street(count)
    for _ in range(3):
        with pipe.submit_batch(frames, ALL) as results:
            for frame, result in zip(frames, results, strict=True):
                same(result, single.segment(frame, ALL), part=1e-3)
        frames = frames[1:] + frames[:1]
    assert pipe.counters["captures"] == int(graphs)


def test_frames_of_different_sizes_and_encodings(pipeline, street, same) -> None:
    resize = Resize("fixed", height=192, width=256)
    pipe, single = (pipeline(precision="fp32", slots=1, resize=resize) for _ in range(2))
    colour = street(1, 200, 300)[0]
    grey = Frame(np.ascontiguousarray(street(1, 150, 260)[0].data[..., 0]), "mono8")
    for _ in range(3):
        with pipe.submit_batch([colour, grey], ALL) as results:
            for frame, result in zip((colour, grey), results, strict=True):
                assert result.label.shape == frame.size
                same(result, single.segment(frame, ALL), part=1e-3)
    assert pipe.counters["fallbacks"] == 0
