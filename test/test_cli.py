"""Verbs of `m2f` that have no room of their own."""

import pytest
import torch
from click.testing import CliRunner

from m2f_ros.cli import m2f
from m2f_ros.pipeline.device import quickest_precision


def test_prepare_converts_for_a_size(small_model, tmp_path, monkeypatch):
    pytest.importorskip("openvino", reason="openvino is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    precision = quickest_precision(torch.device("cpu"))
    done = CliRunner().invoke(m2f, ["prepare", "--model", str(small_model), "--image", "100x60", "--device", "cpu"])
    assert (done.exit_code, done.output) == (0, f"{small_model} is ready for 100x60 on cpu (openvino, {precision})\n")
    (file,) = tmp_path.rglob("*.blob")  # the node's, which takes the quickest precision, too
    assert "64x96" in file.name
