"""VidEoMT frame by frame: the result of transformers' code on the whole clip."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from m2f_ros.errors import ConfigError, FrameError
from m2f_ros.export.export import export
from m2f_ros.export.settings import Settings
from m2f_ros.model import load, save
from m2f_ros.pipeline import Frame, Pipeline
from m2f_ros.pipeline.backends.eager import Eager
from m2f_ros.taxonomy import from_names

sys.path.insert(0, str(Path(__file__).parent))
import adapted

pytest.importorskip("transformers", reason="transformers is not installed")
LENGTH = 5
ALL = {"label", "panoptic", "memory"}


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """transformers' network, and the folder that it was written to."""
    folder = tmp_path_factory.mktemp("videomt")
    network, _ = adapted.write("videomt", folder)
    return network, folder


class Recording(Eager):
    """The eager backend, which keeps what goes in and out."""

    def __init__(self, model):
        super().__init__(model)
        self.calls = []

    def __call__(self, pixels, memory=None):
        result = super().__call__(pixels, memory)
        self.calls.append((pixels, result))
        return result


def pipeline(network, backend="eager", **options):
    return Pipeline(network, from_names("test", adapted.LABELS), device="cpu", backend=backend, **options)


def clip(seed):
    """Frames of a picture that moves."""
    picture = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    return [Frame(np.ascontiguousarray(np.roll(picture, 5 * i, 1)), "rgb8") for i in range(LENGTH)]


@torch.no_grad()
def library(network, pixels):
    """transformers' logits of each frame of a clip, (frames, 3, 64, 64)."""
    outputs = network(pixel_values_videos=pixels[None])
    return outputs.class_queries_logits, outputs.masks_queries_logits


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_frame_by_frame_it_is_the_whole_clip(case):
    network, folder = case
    backend = Recording(load(folder))
    pipe = pipeline(backend.model, backend)
    labels = [pipe.segment(frame, {"label"}).label for frame in clip(1)]
    pixels, results = (torch.cat(x) if torch.is_tensor(x[0]) else x for x in zip(*backend.calls, strict=True))
    classes, masks = library(network, pixels)
    for i, result in enumerate(results):
        close(tuple(result), (classes[i : i + 1], masks[i : i + 1]))
        scores = torch.einsum(
            "qc,qhw->chw",
            classes[i].softmax(-1)[:, :-1],
            torch.nn.functional.interpolate(masks[i : i + 1], (64, 64), mode="bilinear")[0].sigmoid(),
        )
        two = scores.topk(2, 0).values
        clear = (two[0] - two[1] > 1e-4).numpy()
        assert clear.mean() > 0.99
        np.testing.assert_array_equal(labels[i][clear], scores.argmax(0).numpy()[clear])
    alone = library(network, pixels[-1:])[1]
    assert (alone - masks[-1:]).abs().max() > 1e-2  # else the past means nothing


def test_streams_in_one_batch_have_a_memory_each(case):
    network, folder = case
    backend = Recording(load(folder))
    pipe, clips = pipeline(backend.model, backend), {"a": clip(1), "b": clip(2)}
    for i in range(LENGTH):
        order = ["a", "b"] if i % 2 else ["b", "a"]
        pipe.submit_batch([clips[name][i] for name in order], {"label"}, streams=order).release()
    for name in clips:
        places = [(["a", "b"] if i % 2 else ["b", "a"]).index(name) for i in range(LENGTH)]
        calls = list(zip(backend.calls, places, strict=True))
        pixels = torch.cat([pixels[at : at + 1] for (pixels, _), at in calls])
        found = [torch.cat([result[k][at : at + 1] for (_, result), at in calls]) for k in (0, 1)]
        close(tuple(found), library(network, pixels))


def test_a_reset_begins_a_clip(case):
    _, folder = case
    pipe, frames = pipeline(load(folder)), clip(1)
    first = [pipe.segment(frame, ALL) for frame in frames]
    pipe.reset("")
    for before, frame in zip(first, frames, strict=True):
        again = pipe.segment(frame, ALL)
        np.testing.assert_array_equal(again.memory, before.memory)
        np.testing.assert_array_equal(again.label, before.label)
    assert not np.array_equal(pipe.segment(frames[0], ALL).memory, first[0].memory)


def test_a_memory_that_was_kept_is_restored(case):
    _, folder = case
    pipe, other, frames = pipeline(load(folder)), pipeline(load(folder)), clip(1)
    assert pipe.remembers
    results = [pipe.segment(frame, ALL) for frame in frames]
    other.restore("", results[1].memory)
    for frame, result in zip(frames[2:], results[2:], strict=True):
        again = other.segment(frame, ALL)
        np.testing.assert_array_equal(again.memory, result.memory)
        np.testing.assert_array_equal(again.ids, result.ids)
    with pytest.raises(ValueError, match="is not of this network"):
        other.restore("", np.zeros((2, 2), np.float32))


def test_a_batch_has_one_frame_of_a_stream(case):
    pipe = pipeline(load(case[1]))
    for streams in (["a", "a"], None):
        with pytest.raises(FrameError, match="the network's memory"):
            pipe.submit_batch(clip(1)[:2], {"label"}, streams=streams)


@pytest.mark.parametrize("batch", [1, 2])
def test_in_openvino(case, batch):
    pytest.importorskip("openvino", reason="openvino is not installed")
    _, folder = case
    ours, wanted = (pipeline(load(folder), name) for name in ("openvino", "eager"))
    assert ours.backend == "openvino"
    clips = [clip(seed) for seed in range(batch)]
    for frames in zip(*clips, strict=True):
        both = []
        for pipe in (ours, wanted):
            with pipe.submit_batch(frames, ALL, streams=["a", "b"][:batch]) as results:
                both.append([result.copy() for result in results])
        for one, other in zip(*both, strict=True):
            np.testing.assert_allclose(one.memory, other.memory, rtol=1e-4, atol=1e-4)
            assert (one.label != other.label).mean() < 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision(case, dtype):
    backend = Eager(load(case[1]).to(dtype))
    pipe, plain = pipeline(backend.model, backend), pipeline(load(case[1]))
    for frame in clip(1):
        found, wanted = pipe.segment(frame, ALL), plain.segment(frame, ALL)
        assert found.memory.dtype == np.float32
        assert np.abs(found.memory - wanted.memory).max() < 0.1 * np.abs(wanted.memory).max()


def test_saved_and_loaded_it_goes_on_alike(case, tmp_path):
    save(load(case[1]), tmp_path)
    one, other = pipeline(load(case[1])), pipeline(load(tmp_path))
    for frame in clip(1):
        close(*(torch.from_numpy(pipe.segment(frame, ALL).memory) for pipe in (one, other)))


def test_the_export_has_no_place_for_it(case, tmp_path):
    with pytest.raises(ConfigError, match="has a memory from frame to frame, which the files have no place for"):
        export(Settings(str(case[1]), to="pt2"), tmp_path / "out", clip(1), "a clip", say=lambda line: None)
