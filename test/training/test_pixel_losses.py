"""Losses of each pixel against their definitions."""

import math
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
    if name in ("dice", "focal", "lovasz"):
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


@pytest.mark.parametrize(("threshold", "least"), [(0.3, 0.1), (0.0, 0.25), (1.0, 0.5)])
def test_ohem_is_the_mean_over_the_hard_pixels(image, threshold, least):
    logits, labels, target = image
    chances = logits.softmax(0).gather(0, labels.clamp(max=3)[None])[0][labels != 255].tolist()
    count = max(sum(chance < threshold for chance in chances), math.ceil(least * len(chances)))
    hard = sorted(chances)[:count]
    expected = sum(-math.log(chance) for chance in hard) / count
    found = one_loss("ohem", logits, target, ohem_threshold=threshold, ohem_least=least)
    assert found == pytest.approx(expected, rel=1e-6) and count in (4, 10, 40, sum(c < 0.3 for c in chances))


def test_only_hard_pixels_learn(image):
    logits, labels, target = image
    logits = logits.float().requires_grad_()
    config = PixelLossConfig(ohem=1.0, ohem_threshold=0.0, ohem_least=0.25)
    pixel_losses(logits, target, config)["ohem"].backward()
    assert (logits.grad.abs().sum(0) > 0).sum() == 10  # of 40 labelled ones
    assert not logits.grad[:, labels == 255].any()


def signed_distance(labels: torch.Tensor, c: int) -> torch.Tensor:
    """Distance to the class outside of it; inside, to the other classes, less 1 and negated; one pixel at a time."""
    found = torch.zeros(labels.shape, dtype=torch.float64)
    places = torch.nonzero(labels != 255).tolist()
    for y, x in places:
        inside = bool(labels[y, x] == c)
        goals = [(v, u) for v, u in places if bool(labels[v, u] == c) != inside]
        nearest = min(math.dist((y, x), goal) for goal in goals)
        found[y, x] = 1 - nearest if inside else nearest
    return found


@pytest.mark.parametrize("weights", [(), (1.0, 2.0, 0.5, 3.0)])
def test_boundary(image, weights):
    logits, labels, target = image
    chance, labelled = logits.softmax(0), labels != 255
    factors = weights or (1.0,) * CLASSES
    # Kervadec et al. 2019, equation 5, as the mean over pixels and classes; class 3 does not occur and has no boundary.
    expected = sum(
        factors[c] * (signed_distance(labels, c) * chance[c])[labelled].mean() for c in labels[labelled].unique()
    ) / sum(factors)
    found = one_loss("boundary", logits.float(), target, class_weights=weights)
    assert found == pytest.approx(expected.item(), rel=1e-5)


def test_boundary_of_things_is_that_of_their_class_and_an_image_of_one_class_has_none(image):
    logits, _, _ = image
    left, right = torch.zeros(2, 6, 8).scatter_(2, torch.tensor([0, 1])[:, None, None].expand(2, 6, 1), 1.0)
    apart = Targets(torch.tensor([1, 1, 0]), torch.stack([left, right, 1 - left - right]))
    together = Targets(torch.tensor([1, 0]), torch.stack([left + right, 1 - left - right]))
    assert one_loss("boundary", logits, apart) == one_loss("boundary", logits, together) != 0
    assert one_loss("boundary", logits, Targets(torch.tensor([2]), torch.ones(1, 6, 8))) == 0


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
    pixel = PixelLossConfig(cross_entropy=2.0, ohem=1.0, boundary=0.5, class_weights=(1.0, 2.0, 3.0, 4.0))
    config = LossConfig(pixel=pixel)
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
    assert list(shown) == ["cross_entropy", "ohem", "boundary"]
