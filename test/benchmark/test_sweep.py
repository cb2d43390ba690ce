"""The sweep's table, its errors and records of kernels' calls; programs that run a part beneath them."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from m2f_ros.benchmark.gpu_check import part, sweep
from m2f_ros.benchmark.gpu_check.plan import FailedPart

CPU = torch.device("cpu")


def broken(x):
    raise RuntimeError("refused")


def test_rows_have_times_and_errors_against_float32() -> None:
    ways = {"exact": torch.tanh, "off by a tenth": lambda x: x.tanh() * 1.1, "broken": broken}
    found, notes = {"rows": []}, []
    case = sweep.Case("a", lambda randn: (randn(64, 64),), ways, torch.tanh, flops=64 * 64)
    sweep.sweep([case], CPU, notes.append, found)
    rows = {(row["type"], row["way"]): row for row in found["rows"]}
    assert set(rows) == {(kind, way) for kind in ("fp16", "bf16") for way in ways}
    for kind, rounding in (("fp16", 2**-11), ("bf16", 2**-8)):
        assert 0 < rows[kind, "exact"]["relative_error"] < rounding
        assert rows[kind, "off by a tenth"]["relative_error"] == pytest.approx(0.1, abs=2 * rounding)
        assert rows[kind, "exact"]["tflop_per_s"] == pytest.approx(64 * 64 / rows[kind, "exact"]["us"] / 1e6)
        assert rows[kind, "broken"]["error"] == "RuntimeError: refused"
        assert "us" not in rows[kind, "broken"]
    assert len(notes) == 2


def test_an_error_that_is_not_finite_is_none() -> None:
    assert sweep.distance(torch.tensor([torch.inf]), torch.ones(1)) is None
    assert sweep.distance((torch.ones(2), None), (torch.ones(2), None)) == 0


def test_products_are_those_of_the_network() -> None:
    cases = sweep.products()
    assert len({case.name.partition(",")[0] for case in cases}) == 24
    gelu = next(case for case in cases if case.name == "stage 3 fc1 2048x1536x6144, then gelu")
    assert gelu.flops == 2 * 2048 * 1536 * 6144


@pytest.mark.parametrize("case", sweep.products()[:4], ids=lambda case: case.name.rpartition(" ")[2])
def test_every_way_of_a_product_is_the_same(case) -> None:
    x, w, b = torch.randn(5, 32), torch.randn(48, 32) / 32**0.5, torch.randn(48)
    for name, way in case.ways.items():
        if "own kernel" in name:
            continue  # for GPUs
        torch.testing.assert_close(way(x, w, b), case.exact(x, w, b), atol=0.3 if "fp8" in name else 3e-3, rtol=0)


def test_the_shape_of_attention() -> None:
    small = next(case for case in sweep.attentions() if case.name == "attention: 100 queries, 2048 keys, mask")
    inputs = small.make(lambda *shape: torch.randn(shape))
    assert inputs[3].dtype == torch.bool
    torch.testing.assert_close(small.ways["math"](*inputs), F.scaled_dot_product_attention(*inputs))


def test_calls_of_kernels_are_recorded_and_repeated_with_other_blocks(monkeypatch) -> None:
    pytest.importorskip("triton")
    from m2f_ros.kernels import overlay

    blocks = []

    def blend(picture, weight):
        blocks.append((overlay.BLOCK, picture.dtype))
        return picture.mul_(weight)  # its input too: later calls have another one

    blend.__module__ = overlay.__name__
    monkeypatch.setattr(overlay, "blend", blend)
    with sweep.recorded() as calls:
        for size in (2, 2, 3):
            overlay.blend(torch.ones(size, dtype=torch.float16), weight=2)
    assert overlay.blend is blend
    assert list(calls) == ["overlay.blend[(2,), 2]", "overlay.blend[(3,), 2]"]
    blocks.clear()
    found = {"rows": []}
    sweep.sweep_blocks({"first": calls["overlay.blend[(2,), 2]"]}, CPU, lambda found: None, found)
    assert [(row["way"], row["relative_error"]) for row in found["rows"]] == [
        ("as it is", 0.0),
        ("BLOCK 256", 0.0),
        ("BLOCK 1024", 0.0),
        ("BLOCK 2048", 0.0),
    ]
    assert {block for block, _ in blocks} == {256, 512, 1024, 2048}
    assert (512, torch.float32) in blocks  # the exact result, with the module's own
    assert overlay.BLOCK == 512


def program(tmp_path: Path, monkeypatch, name: str, code: str) -> dict:
    """Put a shell script of that name alone on the PATH; the arguments of a part."""
    file = tmp_path / name
    file.write_text(f"#!/bin/sh\nfor last; do :; done\n{code}\n")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return {"out": str(tmp_path), "scratch": str(tmp_path)}


FOUND = """echo '{"result": {"passed": 3}}' > "$last" """


def test_hardware_counters(tmp_path, monkeypatch) -> None:
    table = tmp_path / "ncu.csv"
    arguments = program(tmp_path, monkeypatch, "ncu", f"""{FOUND}\nprintf '==1== x\\n"ID"\\n"0"\\n"1"\\n' > {table}""")
    notes: list[dict] = []
    part.counters(arguments, notes.append)
    assert notes[-1] == {"passed": 3, "file": "ncu.csv", "lines": 2}
    program(tmp_path, monkeypatch, "ncu", f"{FOUND}\necho '==1== no permission' > {table}")
    with pytest.raises(FailedPart, match="ncu counted nothing"):
        part.counters(arguments, notes.append)
    (tmp_path / "ncu").unlink()
    with pytest.raises(part.NotHere, match="there is no ncu on the PATH"):
        part.counters(arguments, notes.append)


def test_memcheck(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PYTORCH_NO_CUDA_MEMORY_CACHING", "")
    notes: list[dict] = []
    arguments = program(tmp_path, monkeypatch, "compute-sanitizer", FOUND)
    part.sanitizer(arguments, notes.append)
    assert notes == [{"passed": 3}]
    arguments = program(tmp_path, monkeypatch, "compute-sanitizer", f"{FOUND}\nexit 86")
    with pytest.raises(FailedPart, match="compute-sanitizer ended with 86"):
        part.sanitizer(arguments, notes.append)
    assert notes[1:] == [{"passed": 3}]
