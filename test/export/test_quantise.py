"""m2f quantize: frames in, a checkpoint in eight bits and its scores out."""

from __future__ import annotations

import json
import sys

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from m2f_ros.cli import m2f
from m2f_ros.errors import ConfigError, SourceError
from m2f_ros.export import quantise as module
from m2f_ros.export.quantise import Settings, quantise
from m2f_ros.model import load
from m2f_ros.model.quantised_files import FILE, sums


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(6):
        patches = rng.integers(0, 256, (4, 6, 3), np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), cv2.resize(patches, (96, 64), interpolation=cv2.INTER_NEAREST))
    return folder


@pytest.fixture
def without_openvino(monkeypatch):
    """The finished checkpoint is scored by PyTorch, which takes seconds less."""
    monkeypatch.setattr(module, "importlib", type(sys)("importlib"))
    module.importlib.util = type("util", (), {"find_spec": staticmethod(lambda name: None)})


def settings(model, pictures, **options):
    return Settings(str(model), (str(pictures),), frames=3, scored=2, **options)


def test_a_checkpoint_and_its_scores(small_model, pictures, tmp_path, without_openvino):
    said: list[str] = []
    about = quantise(settings(small_model, pictures, max_loss=1.0), tmp_path / "out", said.append)
    assert json.loads((tmp_path / "out" / FILE).read_text()).items() >= about.items()
    assert any("has no labels" in line for line in said)
    assert about["kept"] == {} and about["tried"][0]["share"] == about["share"] > 0.9
    (scores,) = about["scores"]
    assert scores["frames"] == 2 and scores["before"]["miou"] == 1  # its own labels are the truth
    assert scores["loss"] == pytest.approx(1 - scores["after"]["miou"], abs=1e-5)
    assert 0.8 < scores["equal"] <= 1
    assert about["weights"] == sums(small_model)
    model = load(tmp_path / "out")
    assert model.quantisation is not None and model.quantisation.corrections.keys() == model.quantisation.ranges.keys()
    assert str(scores["drive"]) in module.describe(about)


@pytest.mark.more
def test_a_bound_that_is_not_held_leaves_nothing(small_model, pictures, tmp_path, without_openvino, monkeypatch):
    monkeypatch.setattr("m2f_ros.export.calibrate.LEAST_SHARE", 0.02)  # fewer products, each of which is tried alone
    with pytest.raises(ConfigError, match=r"--max-loss 0: not reached; mIoU lost at .*: 0\.\d+ at \d+%"):
        quantise(settings(small_model, pictures, max_loss=0.0), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.more
def test_truth_is_taken_where_it_is(small_model, tmp_path, without_openvino):
    about = quantise(Settings(str(small_model), ("street:1",), frames=1, scored=1, max_loss=1.0), tmp_path / "out")
    (scores,) = about["scores"]
    assert scores["labelled"] and scores["drive"] == "street:1" and scores["before"]["miou"] < 1


def test_frames_to_calibrate_with_are_not_scored(pictures):
    frames, (drive,) = module._frames(settings("x", pictures))
    assert len(frames) == 3 and len(drive.frames) == 2
    assert not any(np.array_equal(x.data, y.data) for x in frames for y in drive.frames)
    frames, drives = module._frames(Settings("x", (str(pictures),), score=(str(pictures),), frames=6, scored=1))
    assert len(frames) == 6 and [len(drive.frames) for drive in drives] == [1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--calibrate", "absent"], "absent: does not exist"),
        (["--max-loss", "nan"], "is not a number"),
        (["--max-loss", "2"], "0<=x<=1"),
        (["--frames", "0"], "x>=1"),
        (["--to", "torch"], "'openvino', 'onnx'"),
    ],
)
def test_bad_input_is_one_line(options, words, small_model, tmp_path):
    result = CliRunner().invoke(m2f, ["quantize", str(small_model), "--out", str(tmp_path / "out"), *options])
    assert result.exit_code != 0
    assert words in (str(result.exception) + result.output)
    assert not (tmp_path / "out").exists()


def test_one_frame_is_not_for_both(pictures, tmp_path):
    cv2.imwrite(str(tmp_path / "one.png"), np.zeros((64, 96, 3), np.uint8))
    with pytest.raises(SourceError, match="has 1 frames, and none is left to score; give --score"):
        module._frames(Settings("x", (str(tmp_path),)))


@pytest.mark.more
@pytest.mark.heavy
def test_onnx(small_model, pictures, tmp_path, without_openvino):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    out = tmp_path / "out"
    about = module.quantise_for_onnx(settings(small_model, pictures, max_loss=1.0), out)
    graph = onnx.load(str(next(out.glob("*.onnx")))).graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("DequantizeLinear") >= len(about["scores"]) and "QuantizeLinear" in kinds
    assert f"model: {small_model}" in (out / "m2f.yaml").read_text()
