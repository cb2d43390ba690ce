"""The plan: the same results with and without, and a network that can be exported."""

import pytest
import torch

from m2f_ros.model import ModelConfig, SwinConfig, build

LABELS = ("road", "car", "sky")
SMALL = dict(hidden_dim=64, heads=4, encoder_layers=2, encoder_ffn=32, decoder_layers=4, decoder_ffn=32, num_queries=5)
# Windows of 3: shifted, and not dividing the maps.
SWIN = SwinConfig(embed_dim=16, depths=(2, 2, 1, 2), num_heads=(1, 1, 2, 2), window_size=3)


class Planned(torch.nn.Module):
    """The network as the backends export it: with a plan of its own."""

    def __init__(self, model, plan):
        super().__init__()
        self.model, self.plan = model, plan

    def forward(self, pixels):
        return self.model(pixels, self.plan)[:2]


@pytest.fixture(scope="module", params=[SWIN, "efficientnet_lite0"], ids=["swin", "efficientnet"])
def model(request):
    torch.manual_seed(0)
    model = build(ModelConfig(request.param, LABELS, **SMALL)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def pixels(batch=2, height=64, width=96):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def leaves(plan):
    for value in plan:
        if isinstance(value, tuple):
            yield from leaves(value)
        else:
            yield value


def test_with_and_without_a_plan(model):
    with torch.inference_mode():
        plan = model.plan(64, 96)
        one, other = model(pixels(), plan), model(pixels())
        torch.testing.assert_close(one, other, rtol=0, atol=0)
        for i in range(2):
            alone = model(pixels()[i : i + 1], plan)
            torch.testing.assert_close(alone.class_logits[0], one.class_logits[i], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(alone.mask_logits[0], one.mask_logits[i], rtol=1e-4, atol=1e-4)


def test_a_plan_is_a_tree_of_tensors_and_integers(model):
    assert {type(x) for x in leaves(model.plan(64, 96))} == {torch.Tensor, int}


def test_gradients_pass_through_a_plan(model):
    model = model.double()
    names, parameters = zip(*model.named_parameters(), strict=True)

    def gradients(plan):
        output = model(pixels().double(), plan)
        return torch.autograd.grad(output.class_logits.sum() + output.mask_logits.square().mean(), parameters)

    plan = model.plan(64, 96)
    for name, one, other in zip(names, gradients(plan), gradients(None), strict=True):
        torch.testing.assert_close(one, other, msg=lambda text, name=name: f"{name}: {text}")
    model.float()


def test_a_plan_for_another_size(model):
    with pytest.raises(ValueError, match="images of 64x96, but the plan is for 96x64"):
        model(pixels(), model.plan(96, 64))
    with pytest.raises(ValueError, match="images of 64x90: height and width must be multiples of 32"):
        model(pixels(width=90))


@pytest.mark.parametrize("batch", [1, 2])
def test_exported(model, batch):
    with torch.no_grad():
        exported = torch.export.export(Planned(model, model.plan(64, 96)), (pixels(batch),))
        for one, other in zip(exported.module()(pixels(batch)), model(pixels(batch)), strict=False):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
