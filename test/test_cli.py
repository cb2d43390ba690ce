"""Verbs of `m2f` that have no room of their own."""

import pytest
from click.testing import CliRunner

from m2f_ros.cli import m2f


def test_prepare_converts_for_a_size(small_model, tmp_path, monkeypatch):
    pytest.importorskip("openvino", reason="openvino is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    done = CliRunner().invoke(m2f, ["prepare", "--model", str(small_model), "--image", "100x60", "--device", "cpu"])
    assert (done.exit_code, done.output) == (0, f"{small_model} is ready for 100x60 on cpu (openvino)\n")
    (file,) = tmp_path.rglob("*.blob")
    assert "64x96" in file.name
