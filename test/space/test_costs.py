"""Costs of classes: the built-in file for every taxonomy, files of users, and their faults."""

import logging
from pathlib import Path

import numpy as np
import pytest

from m2f_ros import errors, taxonomy
from m2f_ros.errors import ConfigError
from m2f_ros.space.costs import LETHAL, UNKNOWN, looked_up, read_costs

CITYSCAPES = taxonomy.get("cityscapes")
CONFIG = Path(__file__).resolve().parents[2] / "config" / "costs.yaml"


@pytest.fixture
def said(caplog):
    errors.say_once.cache_clear()
    with caplog.at_level(logging.WARNING, logger="m2f_ros"):
        yield lambda: [record.getMessage() for record in caplog.records]


def costs_of(tmp_path, text, of=CITYSCAPES):
    file = tmp_path / "costs.yaml"
    file.write_text(text)
    return read_costs(file, of)


@pytest.mark.parametrize("name", taxonomy.BUILTIN)
def test_the_built_in_costs_have_every_class_of_the_shipped_taxonomies(name, said):
    found = read_costs("", taxonomy.get(name))
    assert found.missing == () and said() == []
    assert (found.table[len(taxonomy.get(name).classes) :] == UNKNOWN).all()
    free = found.table == 0
    assert free.any() and found.flat[free].all()
    assert not (found.flat & found.moves).any()


@pytest.mark.parametrize(
    "of, name, cost, flat, moves",
    [
        ("cityscapes", "road", 0, True, False),
        ("cityscapes", "sidewalk", 60, True, False),
        ("cityscapes", "person", LETHAL, False, True),
        ("cityscapes", "pole", LETHAL, False, False),
        ("cityscapes", "sky", UNKNOWN, False, False),
        ("ade20k", "floor", 0, True, False),
        ("ade20k", "water", LETHAL, True, False),
        ("ade20k", "sidewalk", 60, True, False),
        ("coco_panoptic", "pavement-merged", 60, True, False),
        ("coco_panoptic", "chair", LETHAL, False, False),
        ("mapillary", "ego vehicle", UNKNOWN, False, False),
        ("camvid", "pedestrian", LETHAL, False, True),
    ],
)
def test_costs_by_name(of, name, cost, flat, moves):
    classes = taxonomy.get(of)
    train_id = classes.names.index(name)
    found = read_costs("", classes)
    assert (found.table[train_id], found.flat[train_id], found.moves[train_id]) == (cost, flat, moves)


def test_the_file_to_copy_is_the_built_in_one():
    assert CONFIG.read_bytes() == (Path(taxonomy.__file__).parent / "space" / "costs.yaml").read_bytes()
    assert (read_costs(CONFIG, CITYSCAPES).table == read_costs("", CITYSCAPES).table).all()


def test_classes_without_an_entry_are_unknown_and_said_in_one_line(tmp_path, said):
    found = costs_of(tmp_path, "ground: {road: 5}\nmoving: {person: 100}\n")
    assert found.table[0] == 5 and found.table[11] == LETHAL and (found.table >= 0).sum() == 2
    assert found.missing[:2] == ("sidewalk", "building") and len(found.missing) == 17
    assert len(said()) == 1 and "no cost for 17 of 19 classes of cityscapes" in said()[0] and "sidewalk" in said()[0]


def test_names_match_as_everywhere(tmp_path):
    found = costs_of(tmp_path, "ground: {Road: 1}\nstanding: {Traffic-Light: 90, trash can: 80}\n", CITYSCAPES)
    assert found.table[0] == 1 and found.table[6] == 90
    found = costs_of(tmp_path, "standing: {trash can: 80, ashcan: 80}\n", taxonomy.get("ade20k"))
    assert found.table[taxonomy.get("ade20k").names.index("ashcan")] == 80


def test_a_misspelt_class_is_said_and_one_of_another_taxonomy_is_not(tmp_path, said):
    costs_of(tmp_path, "ground: {raod: 0, floor: 0}\nmoving: {person: 100}\n")
    skipped = [line for line in said() if "skipped" in line]
    assert len(skipped) == 1 and "raod" in skipped[0] and "near to 'road'" in skipped[0] and "floor" not in skipped[0]


def test_more_than_255_classes():
    many = taxonomy.from_names("many", ["road", *(f"class {i}" for i in range(300))])
    found = read_costs("", many)
    assert found.table.shape == (65536,) and found.unlabelled == 65535 and found.table[0] == 0
    assert looked_up(found.table, np.array([[0, 65535]], np.uint16)).tolist() == [[0, UNKNOWN]]


@pytest.mark.parametrize(
    "text, fault",
    [
        ("ground: {road: 101}", "ground.road: expected a whole number at most 100, found 101"),
        ("ground: {road: cheap}", "expected a whole number"),
        ("ground: {road: 1.5}", "expected a whole number"),
        ("grounds: {road: 0}", "unknown key 'grounds'"),
        ("ground: {road: 0", "not valid YAML"),
        ("- road", "expected keys and values"),
        ("ground: {road: 0}\nstanding: {ROAD: 100}", "'ROAD' is the class 'road', which 'road' is, too"),
        ("ground: {floor: 0}", "none of its 1 entries is a class of cityscapes"),
        ("", "none of its 0 entries is a class of cityscapes"),
    ],
)
def test_faults_are_one_line_with_the_file(tmp_path, text, fault):
    with pytest.raises(ConfigError) as error:
        costs_of(tmp_path, text)
    assert str(error.value).startswith(str(tmp_path / "costs.yaml")) and fault in str(error.value)


def test_no_such_file(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        read_costs(tmp_path / "none.yaml", CITYSCAPES)
