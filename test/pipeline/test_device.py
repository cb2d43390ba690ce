"""Devices and precisions that are there, and what is said of those that are not."""

import pytest
import torch

from m2f_ros.errors import ConfigError
from m2f_ros.pipeline.device import (
    choose_device,
    choose_precision,
    float32_products,
    is_out_of_memory,
    quickest_precision,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize("name", ["tpu9", "meta", "cuda:99", "cpu:x"])
def test_device_that_is_not_there(name):
    with pytest.raises(ConfigError, match=f"device '{name}' .*; take 'auto'"):
        choose_device(name)


def test_precision_by_default():
    assert choose_precision(None, CPU) == "fp32"
    assert choose_precision(None, CUDA) == "fp16"


@pytest.mark.parametrize("bf16, backend, expected", [
    (True, "openvino", "bf16"), (True, "eager", "fp32"), (True, "compile", "fp32"), (False, "openvino", "fp32"),
])  # fmt: skip
def test_quickest_precision(bf16, backend, expected, monkeypatch):
    monkeypatch.setattr("m2f_ros.pipeline.device.cpu_has_bf16", lambda: bf16)
    assert quickest_precision(CPU, backend) == expected
    assert quickest_precision(CUDA, backend) == "fp16"
    with pytest.raises(ConfigError, match="backend 'openvin' is not known"):
        quickest_precision(CPU, "openvin")


@pytest.mark.parametrize("vnni", [True, False])
@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("eight_bits", [True, False])
def test_eight_bits_where_they_are_quickest(vnni, bf16, eight_bits, monkeypatch):
    monkeypatch.setattr("m2f_ros.pipeline.device.cpu_has_bf16", lambda: bf16)
    monkeypatch.setattr("m2f_ros.pipeline.device.cpu_has_vnni", lambda: vnni)
    wanted = "bf16" if bf16 else "int8" if vnni and eight_bits else "fp32"
    assert quickest_precision(CPU, "openvino", eight_bits) == wanted
    assert quickest_precision(CPU, "eager", eight_bits) == "fp32"
    assert quickest_precision(CUDA, "auto", eight_bits) == "fp16"
    with pytest.raises(ConfigError, match="'int8' is for CPUs"):
        choose_precision("int8", CUDA)


@pytest.mark.parametrize(
    ("name", "words"),
    [("int4", "'int4' is unknown"), ("fp16", "needs CUDA"), ("tf32", "needs CUDA"), ("fp8", "needs CUDA")],
)
def test_precision_that_a_cpu_lacks(name, words):
    with pytest.raises(ConfigError, match=words):
        choose_precision(name, CPU)


def test_an_old_gpu_has_no_bf16(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    with pytest.raises(ConfigError, match="Tesla T4 lacks it; take fp16"):
        choose_precision("bf16", CUDA)


def rounded():
    return torch.get_float32_matmul_precision() == "high", torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("precision", ["tf32", "fp32", "fp16"])
def test_products_are_set_and_set_back(precision):
    before = rounded()
    with pytest.raises(KeyError), float32_products(precision, CUDA):
        assert rounded() == (precision == "tf32",) * 2
        # As torch's own parts ask, by older and newer names.
        assert torch.backends.cuda.matmul.allow_tf32 == (precision == "tf32")
        assert torch.backends.cuda.matmul.fp32_precision == ("tf32" if precision == "tf32" else "ieee")
        raise KeyError
    assert rounded() == before


def test_memory_that_does_not_suffice_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
