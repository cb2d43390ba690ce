"""The classes of a checkpoint: those it carries, those of its names, or those that are asked for."""

import json

import pytest

from m2f_ros import taxonomy as taxonomies
from m2f_ros.errors import CheckpointError, ConfigError, TaxonomyError
from m2f_ros.model import ModelConfig, write_config
from m2f_ros.pipeline.classes import taxonomy_of

CAMVID = taxonomies.get("camvid")
YARD = "name: camvid\nclasses: [{id: 0, name: ground, colour: [9, 8, 7]}, {id: 1, name: forklift, thing: true}]\n"


@pytest.fixture
def yard(tmp_path):
    (tmp_path / "yard.yaml").write_text(YARD)
    return taxonomies.get(tmp_path / "yard.yaml")


def config(folder, labels, **carried):
    """As it comes back from a checkpoint with these names in id2label, and this under taxonomy in its config.json."""
    write_config(ModelConfig("efficientnet_lite0", tuple(labels)), folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | carried))
    return ModelConfig.read(folder)


def test_a_checkpoint_carries_its_classes_whole_whatever_their_name(yard, tmp_path):
    write_config(ModelConfig("efficientnet_lite0", yard.names, taxonomy=yard), tmp_path)
    found = taxonomy_of("run/model", ModelConfig.read(tmp_path))
    assert found == yard
    assert [(c.name, c.colour, c.thing) for c in found.classes] == [
        ("ground", (9, 8, 7), False),
        ("forklift", (0, 128, 0), True),
    ]


def test_a_checkpoint_that_names_its_taxonomy(tmp_path):
    assert taxonomy_of("m", config(tmp_path, CAMVID.names, taxonomy="camvid")) is CAMVID
    assert taxonomy_of("m", config(tmp_path, map(str.title, CAMVID.names), taxonomy="camvid")) is CAMVID
    assert taxonomy_of("m", config(tmp_path, CAMVID.names, taxonomy=None)) is CAMVID
    unknown = taxonomy_of("m", config(tmp_path, ["ground", "forklift"], taxonomy="yard"))
    assert (unknown.name, unknown.names) == ("yard", ("ground", "forklift"))
    assert taxonomy_of("m", config(tmp_path, ["ground", "forklift"], taxonomy=None)).name == "m"


@pytest.mark.parametrize(
    ("carried", "reason"),
    [
        ("camvid", "'camvid' and its id2label are of different models: it has 11 classes, not 2;"),
        ({"name": "yard", "classes": [{"id": 0, "name": "ground"}]}, "'yard' .*: it has 1 classes, not 2;"),
        (
            {"name": "yard", "classes": [{"id": 0, "name": "ground"}, {"id": 1, "name": "crane"}]},
            "'yard' .*: its class 1 is 'crane', not 'forklift';",
        ),
        ({"name": "yard", "classes": [{"id": 3, "name": "ground"}]}, "taxonomy: classes: ids must be 0 to 0"),
        (["camvid"], "taxonomy: expected keys and values"),
    ],
)
def test_other_names_than_in_id2label_are_refused(carried, reason, tmp_path):
    with pytest.raises(CheckpointError, match=reason) as caught:
        config(tmp_path, ["ground", "forklift"], taxonomy=carried)
    assert str(caught.value).startswith(f"{tmp_path}/config.json: ")


def test_classes_that_are_asked_for_must_be_the_models(yard, tmp_path):
    own = tmp_path / "yard.yaml"
    model = config(tmp_path, ["ground", "forklift"])
    assert taxonomy_of("m", model, str(own)) == yard
    own.write_text(YARD.replace("name: ground", "name: Boden, aliases: [ground]"))
    assert taxonomy_of("m", model, str(own)).names == ("Boden", "forklift")
    own.write_text(YARD.replace("name: ground", "name: Boden"))
    with pytest.raises(ConfigError, match="not that of model 'm': its class 0 is 'Boden', not 'ground'; leave it out"):
        taxonomy_of("m", model, str(own))
    with pytest.raises(ConfigError, match="taxonomy 'camvid' is not that of model 'm': it has 11 classes, not 2;"):
        taxonomy_of("m", model, "camvid")
    with pytest.raises(TaxonomyError, match="unknown taxonomy 'none'"):
        taxonomy_of("m", model, "none")


def test_names_that_transformers_makes_up_may_be_any(yard, tmp_path):
    model = config(tmp_path, ["LABEL_0", "LABEL_1"])
    assert taxonomy_of("m", model).names == ("LABEL_0", "LABEL_1")
    assert taxonomy_of("m", model, str(tmp_path / "yard.yaml")) == yard
    with pytest.raises(ConfigError, match="it has 11 classes, not 2"):
        taxonomy_of("m", model, "camvid")
    with pytest.raises(ConfigError, match="it has 2 classes, not 11"):
        taxonomy_of("m", config(tmp_path, [f"LABEL_{i}" for i in range(11)]), str(tmp_path / "yard.yaml"))
