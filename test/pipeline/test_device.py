"""Devices and precisions that are there, and what is said of those that are not."""

import pytest
import torch

from m2f_ros.errors import ConfigError
from m2f_ros.pipeline.device import choose_device, choose_precision, float32_products, is_out_of_memory

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize("name", ["tpu9", "meta", "cuda:99", "cpu:x"])
def test_device_that_is_not_there(name):
    with pytest.raises(ConfigError, match=f"device '{name}' .*; take 'auto'"):
        choose_device(name)


def test_precision_by_default():
    assert choose_precision(None, CPU) == "fp32"
    assert choose_precision(None, CUDA) == "fp16"


@pytest.mark.parametrize(
    ("name", "words"), [("int4", "'int4' is unknown"), ("fp16", "needs CUDA"), ("tf32", "needs CUDA")]
)
def test_precision_that_a_cpu_lacks(name, words):
    with pytest.raises(ConfigError, match=words):
        choose_precision(name, CPU)


def test_an_old_gpu_has_no_bf16(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    with pytest.raises(ConfigError, match="Tesla T4 lacks it; take fp16"):
        choose_precision("bf16", CUDA)


@pytest.mark.parametrize(("precision", "how"), [("tf32", "tf32"), ("fp32", "ieee"), ("fp16", "ieee")])
def test_products_are_set_and_set_back(precision, how):
    places = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [place.fp32_precision for place in places]
    with pytest.raises(KeyError), float32_products(precision, CUDA):
        assert [place.fp32_precision for place in places] == [how, how]
        raise KeyError
    assert [place.fp32_precision for place in places] == before


def test_memory_that_does_not_suffice_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
