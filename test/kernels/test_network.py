"""The whole network with all kernels, on the tensors that it hands to them itself, against the plain one."""

import pytest
import torch

from m2f_ros import kernels, taxonomy
from m2f_ros.model import Mask2Former, ModelConfig, SwinConfig, build, heads
from m2f_ros.pipeline.overlay import blend

SIZE = (64, 96)


def network(window: int) -> Mask2Former:
    """A Swin whose maps of 1/4 to 1/32 of SIZE are larger and smaller than the window, every second block shifted."""
    torch.manual_seed(1)
    config = ModelConfig(
        SwinConfig(16, (2, 2, 2, 2), (1, 1, 2, 2), window_size=window),
        taxonomy.get("cityscapes").names,
        hidden_dim=32,
        heads=2,
        encoder_layers=1,
        encoder_ffn=32,
        decoder_layers=3,
        decoder_ffn=32,
        num_queries=12,
    )
    model = build(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(1.5)  # several classes win
            if name.endswith("bias_table"):
                parameter.normal_()
    return model


def segment(model: Mask2Former, pixels: torch.Tensor, picture: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Class logits, mask logits, labels, confidence, and the overlay of the first image."""
    output = model(pixels, model.plan(*SIZE))
    label, sure = heads.semantic(output.class_logits, output.mask_logits, SIZE, SIZE, confidence=True)
    palette = torch.arange(57, dtype=torch.uint8, device=label.device).view(19, 3)
    weight = torch.full((19,), 128, dtype=torch.int32, device=label.device)
    return output.class_logits, output.mask_logits, label, sure, blend(picture, label[0], palette, weight)


@pytest.mark.heavy
@pytest.mark.parametrize("window", [pytest.param(7, marks=pytest.mark.more), 12])
@torch.inference_mode()
def test_the_whole_network_with_all_kernels(window, device, monkeypatch) -> None:
    model = network(window)
    pixels = torch.randn(2, 3, *SIZE)
    picture = torch.randint(256, (*SIZE, 3), dtype=torch.uint8)
    wanted = segment(model, pixels, picture)  # on the CPU, where no kernel is taken
    exact = segment(model.double(), pixels.double(), picture)
    model.float()

    used = set()
    monkeypatch.setattr(kernels, "use", lambda name, tensor, dim=0: used.add(name) or True)
    result = segment(model.to(device), pixels.to(device), picture.to(device))
    assert used == set(kernels.names) - {"float8"}  # which its precision alone takes
    # Each rounds in another order, and so does each kind of CPU. Mask logits reach 130.
    for ours, plain, true in zip(result[:2], wanted[:2], exact[:2], strict=True):
        assert (ours.cpu() - true).abs().max() <= 4 * (plain - true).abs().max()
    label, sure, overlay = (x.cpu() for x in result[2:])
    assert len(wanted[2].unique()) >= 3
    assert torch.equal(label, wanted[2])
    assert (sure.int() - wanted[3].int()).abs().max() <= 1
    assert torch.equal(overlay, wanted[4])


@pytest.mark.heavy
@torch.inference_mode()
def test_the_network_with_float8_products_and_all_kernels(device, monkeypatch) -> None:
    model, pixels = network(12), torch.randn(1, 3, *SIZE)
    model.use_float8()
    wanted = model(pixels, model.plan(*SIZE))
    used = set()
    monkeypatch.setattr(kernels, "use", lambda name, tensor, dim=0: used.add(name) or True)
    model, pixels = model.to(device), pixels.to(device)
    found = model(pixels, model.plan(*SIZE))
    assert "float8" in used
    # A number at a border of e4m3 rounds to the neighbour, 1/8 away.
    for ours, plain in zip(found[:2], wanted[:2], strict=True):
        assert (ours.cpu() - plain).norm() <= 0.05 * plain.norm()
