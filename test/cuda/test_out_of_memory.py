"""Where the device's memory is short: without graphs, then one line that says what to lower, then on as before."""

import numpy as np
import pytest
import torch

from m2f_ros.errors import FrameError
from m2f_ros.pipeline import Frame

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
ALL = frozenset({"label", "overlay", "confidence"})


@pytest.fixture
def limit():
    """Sets how much more memory torch may take of the device, in bytes."""

    def set_limit(more: int) -> None:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + more) / total)

    yield set_limit
    torch.cuda.set_per_process_memory_fraction(1.0)


def large() -> Frame:
    return Frame(np.zeros((1536, 2048, 3), np.uint8), "rgb8")


def test_one_line_says_what_to_lower(pipeline, street, same, limit) -> None:
    pipe = pipeline()
    small = street(1, 96, 160)[0]
    wanted = pipe.segment(small, ALL)
    limit(64 << 20)
    with pytest.raises(FrameError, match=r"too little memory for a frame of 2048x1536.*lower max_pixels") as error:
        pipe.segment(large(), ALL)
    assert "\n" not in str(error.value)
    assert pipe.counters["fallbacks"] == 1
    # The next one that fits is segmented, and with memory again the large one too.
    same(pipe.segment(small, ALL), wanted)
    torch.cuda.set_per_process_memory_fraction(1.0)
    assert pipe.segment(large(), ALL).label.shape == (1536, 2048)
    assert len(pipe._slots) == 2
    assert pipe._free.qsize() == 2


def test_a_capture_that_lacks_memory_goes_without_graphs(pipeline, street, same) -> None:
    pipe, plain = pipeline(), pipeline(graphs=False)
    network = pipe._backend.model
    forward = network.forward

    def hungry(pixels, plan):
        if torch.cuda.is_current_stream_capturing():
            torch.empty(1 << 50, dtype=torch.uint8, device=pixels.device)
        return forward(pixels, plan)

    network.forward = hungry
    for frame in street(5):
        same(pipe.segment(frame, ALL), plain.segment(frame, ALL))
    assert pipe.counters["fallbacks"] == 1
    assert pipe.counters["captures"] == 0


def test_scarce_memory_changes_no_result(pipeline, street, same, limit) -> None:
    pipe, plain = pipeline(), pipeline(graphs=False)
    frames = street(6)
    wanted = [plain.segment(frame, ALL) for frame in frames]
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    pipe.segment(frames[0], ALL)
    # Enough for one frame at a time, and perhaps not for graphs beside it.
    limit(round(1.5 * (torch.cuda.max_memory_allocated() - before)) + (32 << 20))
    for frame, result in zip(frames, wanted, strict=True):
        same(pipe.segment(frame, ALL), result)
