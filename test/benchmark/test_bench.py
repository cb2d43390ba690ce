"""`m2f bench` as a process, and what it is made of."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import m2f_ros.model
from m2f_ros.benchmark import inputs, theirs
from m2f_ros.benchmark.inputs import Case, checkpoint, spread_queries
from m2f_ros.benchmark.measure import MemoryWatch
from m2f_ros.benchmark.result import Result, Settings, read
from m2f_ros.errors import ConfigError, SourceError
from m2f_ros.model import ModelConfig, SwinConfig, build, heads, load, save

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def m2f(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "m2f_ros.cli", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.more
@pytest.mark.process
def test_against_hugging_face(small_model, tmp_path):
    pytest.importorskip("transformers", reason="transformers, which it is measured against, is not installed")
    path = tmp_path / "result.json"
    settings = ("--size", "64x96", "--rounds", 3, "--seconds", 0.5, "--rate", 20, "--threads", 1)
    done = m2f("bench", "--model", small_model, "--against", "hf", *settings, "--json", path)
    assert done.returncode == 0, done.stderr
    result = read(path, Result)
    (comparison,) = result.comparisons
    assert comparison.ratio > 0 and comparison.agreement == 1.0
    assert f"ours eager against hf: {comparison.ratio:.2f} times as fast" in done.stdout
    assert result.reference_labels > 1
    assert [c.time_ms.count for c in result.contestants] == [3, 3]
    assert all(c.agreement == 1.0 and c.class_logit_error < 1e-3 for c in result.contestants)
    assert all(c.at_rate.arrived == 10 and c.at_rate.done + c.at_rate.dropped == 10 for c in result.contestants)
    stages = ["upload", "preprocess", "backbone", "pixel decoder", "decoder", "head", "download"]
    assert [list(found) for found in result.stages_ms.values()] == [stages, stages]
    assert result.work.network_gflop > 0 and result.roofline.bound_ms > 0
    assert not result.weights.random and result.device == "cpu" and result.threads == 1
    assert len(result.input.sha256) == 64 and result.input.network_size == (64, 96)


@pytest.mark.process
@pytest.mark.parametrize(
    "arguments, line",
    [
        (
            ("--size", "100x200"),
            "m2f: error: --size 100x200: height and width of the network's input must be multiples",
        ),
        (("--model", "swin-huge"), "m2f: error: model 'swin-huge' is neither a folder, nor"),
        (("--precision", "fp16", "--device", "cpu"), "m2f: error: precision 'fp16' needs CUDA"),
        (("--against", "hf,tensorrt"), "m2f: error: --against tensorrt: not known"),
    ],
)
def test_mistakes_are_one_line(arguments, line):
    done = m2f("bench", "--against", "none", *arguments)
    assert done.returncode == 2
    (said,) = done.stderr.strip().splitlines()
    assert said.startswith(line)


def test_what_is_not_installed_is_said_with_the_command(monkeypatch):
    monkeypatch.setattr(theirs.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as error:
        theirs.check("hf", CPU, "fp32")
    assert str(error.value) == "--against hf: transformers not installed; pip install 'transformers>=5.17,<6'"


def test_baselines_of_a_cpu_alone():
    for module in ("transformers", "openvino"):
        pytest.importorskip(module, reason=f"{module} is not installed")
    with pytest.raises(ConfigError, match="on a CPU only"):
        theirs.check("openvino", torch.device("cuda"), "fp16")


def test_the_street_model_under_transformers_code():
    """Same weights, same labels: the baseline of a backbone that transformers does not have."""
    pytest.importorskip("transformers", reason="transformers, which it is measured against, is not installed")
    from m2f_ros.benchmark.ours import Ours

    case = Case(checkpoint("street", Path("/nowhere"), CPU), (96, 128), CPU, "fp32")
    images = inputs.read_frames("street", (90, 120), 2)
    hf = theirs.make("hf", case)
    ours = Ours("eager", case)
    assert ours.labels(images).shape == (2, 90, 120)
    for a, b in zip(ours.logits(images), hf.logits(images), strict=True):
        torch.testing.assert_close(a, b, atol=2e-3, rtol=0)
    assert (ours.labels(images) == hf.labels(images)).mean() > 0.999
    assert len(np.unique(hf.labels(images))) > 3
    with hf.parts() as one, ours.parts() as other:
        assert list(one(images)) == list(other(images))
    # In bf16 its labels would be wrong on a CPU.
    assert (theirs.make("hf", replace(case, precision="bf16")).labels(images) == hf.labels(images)).all()


def test_a_row_of_an_export(small_model, tmp_path):
    from m2f_ros.benchmark.ours import Ours, OursExported
    from m2f_ros.export import settings
    from m2f_ros.export.export import export
    from m2f_ros.frame.frame import Frame

    case = Case(checkpoint(str(small_model), tmp_path, CPU), (64, 96), CPU, "fp32")
    images = inputs.read_frames("street", (60, 90), 2)
    frames = [Frame(image, "rgb8") for image in images]
    folder = tmp_path / "small"
    export(settings.Settings(str(small_model), "torchscript", (64, 96)), folder, frames, "street")
    exported, eager = OursExported(str(folder), case), Ours("eager", case)
    assert exported.name == "small in torchscript"
    assert (exported.labels(images) == eager.labels(images)).mean() > 0.999
    for a, b in zip(exported.logits(images), eager.logits(images), strict=True):
        torch.testing.assert_close(a, b, atol=2e-3, rtol=0)
    with pytest.raises(ConfigError, match=r"--exports .*small: is for a network size of 64x96, not 96x96: take --size"):
        OursExported(str(folder), replace(case, size=(96, 96)))
    with pytest.raises(ConfigError, match=r"--exports .*small: is of another network"):
        OursExported(str(folder), replace(case, weights=checkpoint("street", tmp_path, CPU)))


def test_a_separable_last_convolution_under_transformers_code(tmp_path):
    pytest.importorskip("transformers", reason="transformers, which it is measured against, is not installed")
    from m2f_ros.benchmark.theirs import HuggingFace

    torch.manual_seed(0)
    small = dict(hidden_dim=32, heads=4, encoder_layers=1, encoder_ffn=32, decoder_layers=2, decoder_ffn=32)
    config = ModelConfig("efficientnet_lite2", tuple("abc"), num_queries=5, separable_output=True, **small)
    save(build(config), tmp_path)
    pixels = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        ours = load(tmp_path)(pixels)
        hf = HuggingFace(checkpoint(str(tmp_path), Path("/nowhere"), CPU))(pixels)
    for a, b in zip(ours[:2], hf, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


def test_random_weights_give_several_classes():
    config = ModelConfig(
        SwinConfig(24, (1, 1, 1, 1), (1, 2, 2, 4)), tuple("abcdefghijk"), hidden_dim=32, num_queries=20
    )
    torch.manual_seed(1)
    model = build(config).eval()
    pixels = torch.from_numpy(inputs.read_frames("street", (64, 96), 1)[0]).permute(2, 0, 1)[None] / 64 - 2

    def classes() -> int:
        with torch.inference_mode():
            class_logits, mask_logits, *_ = model(pixels)
        return len(heads.semantic(class_logits, mask_logits, (64, 96), (64, 96))[0].unique())

    assert classes() == 1
    spread_queries(model)
    assert classes() > 2


def test_random_weights_are_drawn_once_and_whole(tmp_path, monkeypatch):
    monkeypatch.setitem(inputs.SWIN, "swin-nano", SwinConfig(24, (1, 1, 1, 1), (1, 2, 2, 4)))
    saved = []

    def save(model, folder):
        m2f_ros.model.save(model, folder)
        saved.append(folder)
        if len(saved) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(inputs, "save", save)
    with pytest.raises(KeyboardInterrupt):
        checkpoint("swin-nano", tmp_path, CPU)
    first = checkpoint("swin-nano", tmp_path, CPU)
    assert first == checkpoint("swin-nano", tmp_path, CPU)
    assert len(saved) == 2
    assert (first.random, first.origin, first.config) == (True, inputs.RANDOM, ModelConfig.read(first.folder))
    again = load(checkpoint("swin-nano", tmp_path / "again", CPU).folder).state_dict()
    for name, weight in load(first.folder).state_dict().items():
        assert torch.equal(weight, again[name])


def test_frames_are_the_same_each_time_and_of_the_size_asked_for(tmp_path):
    from m2f_ros.sources import street

    assert inputs.UNSEEN_SEED == street.UNSEEN_SEED
    first = inputs.read_frames("street:7", (48, 64), 2)
    assert [image.shape for image in first] == [(48, 64, 3)] * 2
    assert not np.array_equal(*first)
    assert inputs.sha256(first) == inputs.sha256(inputs.read_frames("street:7", (48, 64), 2))
    assert inputs.sha256(first) != inputs.sha256(first[::-1])

    import cv2

    cv2.imwrite(str(tmp_path / "a.png"), np.full((30, 40, 3), (255, 0, 0), np.uint8))  # BGR: blue
    (image,) = inputs.read_frames(str(tmp_path), (48, 64), 1)
    assert image.shape == (48, 64, 3) and image[0, 0].tolist() == [0, 0, 255]
    with pytest.raises(SourceError, match="has 1 frames, and 2 different ones"):
        inputs.read_frames(str(tmp_path), (48, 64), 2)


def test_memory_counts_from_its_making():
    watch = MemoryWatch(CPU)
    watch.restart()
    block = torch.ones(25_000_000)  # 100 MB
    del block
    assert watch.peak_mb() > 90
    watch.restart()
    assert watch.peak_mb() < 90


def test_too_little_memory_is_one_line(monkeypatch):
    from m2f_ros.benchmark import runner

    def fail(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(runner, "_run", fail)
    with pytest.raises(ConfigError, match="too little memory for swin-tiny at 256x512, batch 1, with 0 others"):
        runner.run(Settings(against=(), device="cpu"))
