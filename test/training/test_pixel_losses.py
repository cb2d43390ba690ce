"""Losses of each pixel against their definitions."""

from types import SimpleNamespace

import pytest
import torch

from m2f_ros.training.losses import LossConfig, denominators, training_loss
from m2f_ros.training.matching import Targets, targets_from_labels
from m2f_ros.training.pixel_losses import PixelLossConfig, pixel_losses, semantic_logits

CLASSES = 4


@pytest.fixture
def image():
    """Logits (4, 6, 8) of an image, its labels with a row of unlabelled pixels, and its targets."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(CLASSES, 6, 8, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (6, 8), generator=generator)  # class 3 does not occur
    labels[0] = 255
    return logits, labels, targets_from_labels(labels[None], 255, False)[0]


def one_loss(name: str, logits: torch.Tensor, target: Targets, **settings) -> float:
    if name != "cross_entropy":
        pytest.importorskip("kornia", reason="kornia has this loss")
    return pixel_losses(logits, target, PixelLossConfig(**{name: 1.0}, **settings))[name].item()


def test_cross_entropy_with_class_weights(image):
    logits, labels, target = image
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
    chance = logits.softmax(0)
    terms = [
        (weights[c], -weights[c] * chance[c, y, x].log())
        for (y, x), c in (
            (place, labels[place]) for place in zip(*torch.nonzero(labels != 255).T.tolist(), strict=True)
        )
    ]
    expected = sum(loss for _, loss in terms) / sum(weight for weight, _ in terms)
    config = PixelLossConfig(cross_entropy=1.0, class_weights=tuple(weights.tolist()))
    assert pixel_losses(logits.float(), target, config)["cross_entropy"].item() == pytest.approx(expected.item(), 1e-5)


def test_focal(image):
    logits, labels, target = image
    labelled = labels != 255
    chance = logits.softmax(0).gather(0, labels.clamp(max=3)[None])[0][labelled]
    expected = (-((1 - chance) ** 3) * chance.log()).mean()
    assert one_loss("focal", logits, target, focal_gamma=3.0) == pytest.approx(expected.item(), rel=1e-6)


def test_dice(image):
    logits, labels, target = image
    chance = logits.softmax(0)[:, labels != 255]
    truth = labels[labels != 255]
    dices = [
        1 - 2 * chance[c][truth == c].sum() / (chance[c].sum() + (truth == c).sum()) for c in truth.unique().tolist()
    ]
    assert one_loss("dice", logits, target) == pytest.approx((sum(dices) / len(dices)).item(), rel=1e-6)


def test_lovasz(image):
    logits, labels, target = image
    chance = logits.softmax(0)[:, labels != 255]
    truth = labels[labels != 255]
    losses = []
    for c in range(CLASSES):
        foreground = (truth == c).double()
        errors, order = (chance[c] - foreground).abs().sort(descending=True)
        # Berman et al., CVPR 2018: by falling error, how much of the Jaccard index each further mistake costs.
        before, cost = 0.0, 0.0
        wrong = torch.zeros(len(truth), dtype=torch.bool)
        for error, i in zip(errors, order, strict=True):
            wrong[i] = True
            union = (foreground.bool() | wrong).sum()
            jaccard = 1 - (foreground.bool() & ~wrong).sum() / union
            cost += error * (jaccard - before)
            before = jaccard
        losses.append(cost)
    assert one_loss("lovasz", logits, target) == pytest.approx((sum(losses) / CLASSES).item(), rel=1e-6)


def test_logits_are_shares_of_the_scores():
    class_logits, mask_logits = torch.randn(1, 3, CLASSES + 1), torch.randn(1, 3, 2, 2)
    classes, masks = class_logits[0].softmax(-1)[:, :-1], mask_logits[0].sigmoid()
    scores = torch.einsum("qc,qhw->chw", classes, masks)
    shares = semantic_logits(class_logits, mask_logits, (2, 2))[0].softmax(0)
    torch.testing.assert_close(shares, scores / scores.sum(0))


def test_the_parts_of_a_batch_add_up_and_every_head_learns():
    def head(seed):
        generator = torch.Generator().manual_seed(seed)
        shapes = (3, 5, CLASSES + 1), (3, 5, 8, 8)
        return tuple(torch.randn(shape, generator=generator).requires_grad_() for shape in shapes)

    heads = [head(0), head(1)]
    labels = torch.randint(0, CLASSES, (3, 16, 16))
    labels[2] = 255
    config = LossConfig(pixel=PixelLossConfig(cross_entropy=2.0, class_weights=(1.0, 2.0, 3.0, 4.0)))
    targets = targets_from_labels(labels, 255, False)

    def loss(part: slice, sums=None):
        (classes, masks), *aux = [tuple(x[part] for x in one) for one in heads]
        output = SimpleNamespace(class_logits=classes, mask_logits=masks, aux=aux)
        return training_loss(output, targets[part], config, sums)

    whole, shown = loss(slice(0, 3))
    sums = denominators(targets, 5, config)
    parts = [loss(part, sums)[0] for part in (slice(0, 2), slice(2, 3))]
    assert whole.item() == pytest.approx(sum(part.item() for part in parts), rel=1e-6)
    assert parts[1].item() == 0  # nothing of it is labelled
    whole.backward()
    assert all(x.grad.abs().sum() > 0 and torch.isfinite(x.grad).all() for one in heads for x in one)
    assert list(shown) == ["cross_entropy"]
