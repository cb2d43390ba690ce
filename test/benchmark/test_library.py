"""The baseline of all families, and networks with random weights."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from m2f_ros.benchmark import inputs, theirs
from m2f_ros.benchmark.inputs import Case, checkpoint
from m2f_ros.benchmark.ours import Ours
from m2f_ros.benchmark.result import Settings
from m2f_ros.errors import ConfigError
from m2f_ros.model import load

sys.path.insert(0, str(Path(__file__).parent.parent / "model"))
import adapted
import zoo

CPU = torch.device("cpu")
SMALL = json.dumps({"model_type": "segformer", **adapted.SHAPES["segformer"]})


def both(name, size, frame_size, scratch=Path("/nowhere")):
    """The labels of the library's own path and of ours, (frames, height, width) each."""
    case = Case(checkpoint(name, scratch, CPU), size, CPU, "fp32")
    images = inputs.read_frames("street", frame_size, 2)
    library, ours = theirs.make("library", case), Ours("eager", case)
    for one, other in zip(library.logits(images), ours.logits(images), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2)
    assert library.margins(images).shape == (2, *frame_size)
    return library.labels(images), ours.labels(images)


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["segformer", "mobilevit", "eomt"])
def test_the_librarys_own_path_gives_the_same_labels(name, tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed")
    adapted.write(name, tmp_path)
    size = (64, 64 if name == "eomt" else 96)
    one, other = both(str(tmp_path), size, size)
    assert len(np.unique(one)) > 1
    assert (one != other).mean() < 1e-3  # where two classes score the same but for rounding


def test_frames_of_another_size_are_resized_by_the_library(tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed")
    one, other = both(f"random:{SMALL}", (64, 96), (90, 120), tmp_path)
    assert one.shape == other.shape == (2, 90, 120)
    assert len(np.unique(one)) > 3
    assert (one != other).mean() < 0.1  # the library rounds to whole numbers in between


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["upernet, convnext", "maskformer", "eomt"])
def test_random_weights_give_several_classes(name, tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed")
    text = json.dumps({"model_type": name.partition(",")[0], **adapted.SHAPES[name]})
    found = checkpoint(f"random:{text}", tmp_path, CPU)
    assert found.random and found.config.num_classes == 19
    size = (64, 64) if name == "eomt" else (64, 96)
    image = inputs.read_frames("street", size, 1)
    assert len(np.unique(Ours("eager", Case(found, size, CPU, "fp32")).labels(image))) > 1
    again = checkpoint(f"random:{text}", tmp_path / "again", CPU)
    for key, weight in load(found.name).state_dict().items():
        assert torch.equal(weight, load(again.name).state_dict()[key]), key


@pytest.mark.parametrize(
    ("text", "reason"),
    [("segfomer", "the network is unknown; known are segformer, "), ("[a", "take random:smp:ARCHITECTURE/ENCODER, ")],
)
def test_a_random_network_that_is_none(text, reason, tmp_path):
    with pytest.raises(ConfigError, match=reason):
        checkpoint(f"random:{text}", tmp_path, CPU)


def test_baselines_of_another_family_are_refused(tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed")
    street, other = (checkpoint(name, tmp_path, CPU) for name in ("street", f"random:{SMALL}"))
    with pytest.raises(ConfigError, match=r"--against library: no library has .*; take hf or none"):
        theirs.check_family("library", street)
    with pytest.raises(ConfigError, match="is for this package's own Mask2Former; take library, or none"):
        theirs.check_family("hf", other)


@pytest.mark.more
def test_a_run_against_the_library(monkeypatch):
    pytest.importorskip("transformers", reason="transformers is not installed")
    from m2f_ros.benchmark import machine, report, runner

    monkeypatch.setattr(machine, "gemm_rate", lambda device, dtype: 1e11)  # which take the most of the time
    monkeypatch.setattr(machine, "copy_rate", lambda device: 1e10)
    small = {"size": (64, 96), "device": "cpu", "threads": 1, "rounds": 2, "seconds": 0, "different_frames": 2}
    result = runner.run(Settings(f"random:{SMALL}", **small))
    assert [c.name for c in result.contestants] == ["ours eager", "library"]
    assert result.settings.against == ("library",)
    (comparison,) = result.comparisons
    assert comparison.theirs == "library" and comparison.agreement > 0.999
    assert [list(stages) for stages in result.stages_ms.values()] == [
        ["upload", "preprocess", "network", "head", "download"],
        ["preprocess", "upload", "network", "head", "download"],
    ]
    assert all(c.class_logit_error < 1e-3 and c.mask_logit_error is None for c in result.contestants)
    assert "ours eager against library: " in report.describe(result)
    assert "transformers' SegformerImageProcessor" in result.reference


@pytest.mark.zoo
@pytest.mark.parametrize(
    ("kind", "architecture", "classes"),
    [("torchvision", "lraspp_mobilenet_v3_large", 3), (zoo.SMP, "Unet", 3), (zoo.SMP, "FPN", 1)],
)
def test_the_own_path_of_torchvision_and_smp(kind, architecture, classes, tmp_path):
    zoo.needs_libraries()
    name = zoo.write(kind, architecture, tmp_path, zoo.theirs(kind, architecture, classes))
    one, other = both(name, (64, 96), (64, 96))
    assert len(np.unique(one)) > 1
    assert (one != other).mean() < 1e-3
    one, other = both(name, (64, 96), (90, 120))
    assert (one != other).mean() < 0.1


@pytest.mark.zoo
@pytest.mark.parametrize("text", ["smp:Unet/mobilenet_v2", "torchvision:lraspp_mobilenet_v3_large"])
def test_random_weights_of_torchvision_and_smp(text, tmp_path):
    zoo.needs_libraries()
    one, other = both(f"random:{text}", (64, 96), (64, 96), tmp_path)
    assert len(np.unique(one)) > 3
    assert (one != other).mean() < 1e-3
