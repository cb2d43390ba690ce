"""The loss against transformers' own, and by hand."""

from types import SimpleNamespace

import pytest
import torch

from m2f_ros.training.losses import LossConfig, denominators, mask2former_loss
from m2f_ros.training.matching import Targets, match, targets_from_labels


def upstream(output, targets, config: LossConfig, classes: int):
    transformers = pytest.importorskip("transformers", reason="transformers is the oracle of this test")
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

    hf = transformers.Mask2FormerConfig(
        num_labels=classes,
        train_num_points=config.points,
        oversample_ratio=config.oversample,
        importance_sample_ratio=config.importance,
        class_weight=config.class_weight,
        mask_weight=config.mask_weight,
        dice_weight=config.dice_weight,
        no_object_weight=config.no_object_weight,
    )
    weights = {
        "loss_cross_entropy": config.class_weight,
        "loss_mask": config.mask_weight,
        "loss_dice": config.dice_weight,
    }
    parts = Mask2FormerLoss(hf, weights)(
        output.mask_logits,
        output.class_logits,
        [t.masks for t in targets],
        [t.classes for t in targets],
        [{"class_queries_logits": c, "masks_queries_logits": m} for c, m in output.aux],
    )
    return sum(w * v for k, v in parts.items() for name, w in weights.items() if k.startswith(name)), parts


def random_output(batch, queries, classes, height, width, heads, seed=0):
    torch.manual_seed(seed)

    def head():
        return (
            (2 * torch.randn(batch, queries, classes + 1)).requires_grad_(),
            (4 * torch.randn(batch, queries, height, width)).requires_grad_(),
        )

    class_logits, mask_logits = head()
    return SimpleNamespace(class_logits=class_logits, mask_logits=mask_logits, aux=[head() for _ in range(heads - 1)])


@pytest.mark.parametrize(
    ("config", "queries", "classes"),
    [
        (LossConfig(), 32, 19),
        (LossConfig(points=500, oversample=2.5, importance=1.0, no_object_weight=0.3), 100, 150),
        (
            LossConfig(points=77, class_weight=1.0, mask_weight=20.0, dice_weight=1.0),
            5,
            9,
        ),  # more masks than queries
    ],
)
def test_equals_transformers_on_the_same_points(config, queries, classes):
    output = random_output(3, queries, classes, 16, 24, heads=3)
    labels = torch.randint(0, classes, (3, 4, 6)).repeat_interleave(16, 1).repeat_interleave(16, 2)
    labels[1, :30] = 255
    targets = targets_from_labels(labels, unlabelled=255, ignore_unlabelled=False)

    torch.manual_seed(1)
    expected, expected_parts = upstream(output, targets, config, classes)
    torch.manual_seed(1)
    total, parts = mask2former_loss(output, targets, config)

    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert parts["class"].item() == pytest.approx(expected_parts["loss_cross_entropy"].item(), rel=1e-5)
    assert parts["mask"].item() == pytest.approx(expected_parts["loss_mask"].item(), rel=1e-5)
    assert parts["dice"].item() == pytest.approx(expected_parts["loss_dice"].item(), rel=1e-5)

    leaves = [output.class_logits, output.mask_logits, *(x for head in output.aux for x in head)]
    for ours, theirs in zip(torch.autograd.grad(total, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


def test_matching_takes_the_query_that_shows_the_mask():
    label = torch.zeros(1, 32, 32, dtype=torch.int64)
    label[0, :, 16:] = 2
    target = targets_from_labels(label, 255, False)[0]
    assert target.classes.tolist() == [0, 2]
    masks = torch.full((4, 8, 8), -8.0)
    masks[1, :, 4:] = 8.0  # query 1 shows class 2
    masks[3, :, :4] = 8.0  # query 3 shows class 0
    queries, indices = match(
        torch.zeros(4, 4), masks, target, points=256, class_weight=2.0, mask_weight=5.0, dice_weight=5.0
    )
    assert (queries.tolist(), indices.tolist()) == ([1, 3], [1, 0])


def test_matching_takes_the_right_class_among_equal_masks():
    target = Targets(torch.tensor([1]), torch.ones(1, 32, 32))
    classes = torch.tensor([[5.0, 0.0, 0.0], [0.0, 5.0, 0.0], [0.0, 0.0, 5.0]])
    queries, _ = match(
        classes, torch.ones(3, 8, 8), target, points=16, class_weight=2.0, mask_weight=5.0, dice_weight=5.0
    )
    assert queries.tolist() == [1]


def test_ignored_pixels_do_not_change_the_loss():
    config = LossConfig(points=400, ignore_unlabelled=True)
    label = torch.zeros(1, 32, 32, dtype=torch.int64)
    label[:, :, 16:] = 255
    targets = targets_from_labels(label, 255, True)
    losses = []
    for beyond in (-9.0, 9.0):
        output = random_output(1, 3, 2, 8, 8, heads=1)
        with torch.no_grad():
            output.mask_logits[..., 4:] = beyond
            output.mask_logits[..., :4] = 9.0
        torch.manual_seed(0)
        losses.append(mask2former_loss(output, targets, config)[1])
    # Points between the labelled and the unlabelled half still see both, hence the tolerance.
    assert losses[0]["mask"].item() == pytest.approx(losses[1]["mask"].item(), abs=0.3)
    assert losses[0]["dice"].item() == pytest.approx(losses[1]["dice"].item(), abs=0.05)


def test_an_image_without_any_label_has_a_finite_loss_and_gradients():
    output = random_output(2, 6, 4, 8, 8, heads=2)
    targets = targets_from_labels(torch.full((2, 32, 32), 255), 255, True)
    total, parts = mask2former_loss(output, targets, LossConfig(points=50))
    total.backward()
    assert torch.isfinite(total)
    assert parts["mask"].item() == 0
    assert output.mask_logits.grad.abs().sum() == 0
    assert output.class_logits.grad.abs().sum() > 0


def test_class_weights_are_on_the_matched_queries_and_the_parts_of_a_batch_add_up():
    config = LossConfig(points=50, class_weights=(1.0, 3.0, 0.5, 2.0), no_object_weight=0.2)
    output = random_output(3, 6, 4, 8, 8, heads=1)
    labels = torch.zeros(3, 16, 16, dtype=torch.int64)
    labels[0, :8], labels[1, :, 8:], labels[2] = 1, 3, 2
    targets = targets_from_labels(labels, 255, False)
    seeds = [1, 2, 3]
    _, parts = mask2former_loss(output, targets, config, seeds=seeds)
    total = weights = 0.0
    for image, target in enumerate(targets):
        torch.manual_seed(seeds[image])
        pairs = match(
            output.class_logits[image],
            output.mask_logits[image],
            target,
            points=50,
            class_weight=2.0,
            mask_weight=5.0,
            dice_weight=5.0,
        )
        taught = dict(zip(pairs[0].tolist(), target.classes[pairs[1]].tolist(), strict=True))
        for query in range(6):
            c = taught.get(query, 4)
            weight = (*config.class_weights, config.no_object_weight)[c]
            total -= weight * output.class_logits[image, query].log_softmax(0)[c].item()
            weights += weight
    assert parts["class"].item() == pytest.approx(total / weights, rel=1e-5)
    sums = denominators(targets, 6, config)
    assert sums[1].item() == pytest.approx(weights)
    few = denominators(targets[:1], 1, config)
    assert few[1].item() == 2.0  # one query for classes of weight 3 and 1
