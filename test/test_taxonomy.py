"""Taxonomies: what ships is whole and in the published order; one's own files are read or refused clearly."""

import json
import re
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2f_ros import taxonomy
from m2f_ros.errors import TaxonomyError


@pytest.mark.parametrize(
    ("name", "classes", "things", "first", "last"),
    [
        ("cityscapes", 19, 8, "road", "bicycle"),
        ("ade20k", 150, 100, "wall", "flag"),
        ("coco_panoptic", 133, 80, "person", "rug-merged"),
        ("mapillary", 65, 37, "bird", "ego vehicle"),
        ("camvid", 11, 3, "sky", "bicyclist"),
    ],
)
def test_builtin_has_the_published_classes(name, classes, things, first, last):
    t = taxonomy.get(name)
    assert (t.name, len(t.classes), sum(c.thing for c in t.classes)) == (name, classes, things)
    assert (t.names[0], t.names[-1]) == (first, last)
    assert [c.id for c in t.classes] == list(range(classes))
    assert sorted(t.file_ids.values()) == list(range(classes))
    assert (t.unlabelled, t.dtype) == (255, np.uint8)


@pytest.mark.parametrize(
    ("name", "file_id", "class_name", "colour"),
    [
        ("cityscapes", 7, "road", (128, 64, 128)),
        ("cityscapes", 33, "bicycle", (119, 11, 32)),
        ("ade20k", 13, "person", (150, 5, 61)),
        ("coco_panoptic", 200, "rug-merged", (250, 141, 255)),
        ("coco_panoptic", 184, "tree-merged", (107, 142, 35)),
        ("mapillary", 55, "car", (0, 0, 142)),
        ("camvid", 4, "pavement", (60, 40, 222)),
    ],
)
def test_file_ids_and_colours(name, file_id, class_name, colour):
    t = taxonomy.get(name)
    train_id = int(t.file_table()[file_id])
    assert t.names[train_id] == class_name
    assert tuple(t.palette()[train_id]) == colour


def test_ids_that_a_data_set_ignores_are_unlabelled():
    assert taxonomy.get("cityscapes").file_table()[[0, 6, 9, 29, 255]].tolist() == [255] * 5
    assert taxonomy.get("ade20k").file_table()[[0, 151]].tolist() == [255, 255]
    assert taxonomy.get("camvid").file_table()[11] == 255
    assert taxonomy.get("mapillary").file_table()[65] == 255


def test_ids_of_no_class_are_declared():
    not_evaluated = (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30, 255)
    declared = {name: taxonomy.get(name).ignore for name in (*taxonomy.BUILTIN, "cityscapes_trainids")}
    assert declared == {
        "cityscapes": not_evaluated,
        "ade20k": (0,),
        "coco_panoptic": (0, 255),
        "mapillary": (65,),
        "camvid": (11, 255),
        "cityscapes_trainids": (255,),
    }
    assert taxonomy.from_names("x", ["road"]).ignore == (255,)
    assert taxonomy.from_names("x", [str(i) for i in range(256)]).ignore == (65535,)


def test_palette_is_black_where_there_is_no_class():
    palette = taxonomy.get("camvid").palette()
    assert palette.shape == (256, 3)
    assert palette.dtype == np.uint8
    assert not palette[11:].any()


def test_train_id_files():
    t = taxonomy.get("cityscapes_trainids")
    assert t.classes == taxonomy.get("cityscapes").classes
    assert t.file_table()[:20].tolist() == [*range(19), 255]
    assert taxonomy.get("cityscapes_labelids") == taxonomy.get("cityscapes")


def test_match_hugging_face_names():
    cityscapes = taxonomy.get("cityscapes")
    assert taxonomy.match(cityscapes.names) is cityscapes
    assert taxonomy.match([n.title() for n in cityscapes.names]) is cityscapes
    ade = taxonomy.get("ade20k")
    # label-files has "bed " and "windowpane"; the original model's metadata "road, route" and "window ".
    variant = {"bed": "bed ", "windowpane": "window ", "road": "road, route", "television receiver": "tv"}
    assert taxonomy.match([variant.get(n, n) for n in ade.names]) is ade
    mapillary = [n.title() for n in taxonomy.get("mapillary").names]
    assert "Crosswalk - Plain" in mapillary
    assert taxonomy.match(mapillary) is taxonomy.get("mapillary")
    assert taxonomy.match(taxonomy.get("coco_panoptic").names) is taxonomy.get("coco_panoptic")


def test_match_refuses_another_order_and_other_classes():
    names = list(taxonomy.get("cityscapes").names)
    assert taxonomy.match(names[::-1]) is None
    assert taxonomy.match(names[:-1]) is None
    assert taxonomy.match([*names[:-1], "tricycle"]) is None
    assert taxonomy.match([]) is None


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=5), min_size=1, max_size=300)
)
def test_from_names_has_distinct_names_and_colours(names):
    t = taxonomy.from_names("x", names)
    assert len({c.colour for c in t.classes}) == len(names)
    assert (0, 0, 0) not in {c.colour for c in t.classes}
    assert [c.id for c in t.classes] == list(range(len(names)))
    assert t.dtype == (np.uint8 if len(names) <= 255 else np.uint16)


def test_from_names_limits():
    with pytest.raises(TaxonomyError, match="no classes"):
        taxonomy.from_names("x", [])
    big = taxonomy.from_names("x", [str(i) for i in range(256)])
    assert (big.unlabelled, big.palette().shape) == (65535, (65536, 3))
    assert taxonomy.from_names("x", [str(i) for i in range(255)]).unlabelled == 255


def things(labels):
    return [c.thing for c in taxonomy.of_labels("x", labels).classes]


@pytest.mark.parametrize(("known", "count"), [("cityscapes", 8), ("coco_panoptic", 80), ("ade20k", 100)])
def test_the_classes_of_a_checkpoint_for_instances_are_things(known, count):
    labels = [c.name for c in taxonomy.get(known).classes if c.thing]
    assert things(labels) == [True] * count
    assert taxonomy.of_labels("x", labels).names == tuple(labels)
    assert taxonomy.of_labels("x", taxonomy.get(known).names) is taxonomy.get(known)


def test_a_model_s_classes_are_things_or_stuff_as_in_a_known_set_and_stuff_where_they_are_in_none(caplog):
    assert things(["Road", "car", "sky"]) == [False, True, False]
    assert things(["traffic light", "pole"]) == [True, True]  # things of ADE20k, and stuff of Cityscapes with others
    assert things(["traffic light", "pole", "road", "rider"]) == [False, False, False, True]
    assert not caplog.records
    for _ in range(2):
        assert things(["background", "person", "zebra crossing of mine"]) == [False, True, False]
    assert [record.getMessage() for record in caplog.records] == [
        "x: 2 of 3 classes are in no known set and are taken for stuff: background, zebra crossing of mine; a taxonomy "
        "in its config.json, or the node's, says which are things"
    ]


def test_merge_of_equal_classes_is_the_identity():
    t = taxonomy.get("mapillary")
    assert taxonomy.merge_table(t, t)[:66].tolist() == [*range(65), 255]


def test_cityscapes_merges_into_camvid_as_documented():
    source, target = taxonomy.get("cityscapes"), taxonomy.get("camvid")
    table = taxonomy.merge_table(source, target)
    merged = {n: target.names[table[i]] for i, n in enumerate(source.names)}
    assert merged["wall"] == "fence"
    assert {merged[n] for n in ("truck", "bus", "train", "car")} == {"car"}
    assert {merged[n] for n in ("rider", "bicycle", "motorcycle")} == {"bicyclist"}
    assert {merged[n] for n in ("vegetation", "terrain")} == {"tree"}
    assert {merged[n] for n in ("traffic light", "traffic sign")} == {"sign"}
    assert merged["sidewalk"] == "pavement"
    assert (table[19:] == 255).all()


def test_camvid_to_cityscapes_and_back_is_the_identity():
    camvid, cityscapes = taxonomy.get("camvid"), taxonomy.get("cityscapes")
    there, back = taxonomy.merge_table(camvid, cityscapes), taxonomy.merge_table(cityscapes, camvid)
    assert back[there][:12].tolist() == [*range(11), 255]


def test_merge_by_name_across_dtypes():
    wide = taxonomy.from_names("wide", [f"c{i}" for i in range(299)] + ["Road"])
    table = taxonomy.merge_table(wide, taxonomy.get("cityscapes"))
    assert table.shape == (65536,)
    assert table.dtype == np.uint8
    assert table[299] == 0
    assert (np.delete(table, 299) == 255).all()


def test_merge_without_anything_in_common_says_what_to_do():
    with pytest.raises(TaxonomyError, match="merge_into: camvid"):
        taxonomy.merge_table(taxonomy.from_names("yard", ["forklift"]), taxonomy.get("camvid"))


@pytest.mark.parametrize(
    ("values", "hint", "expected"),
    [
        ({0, 3, 11}, "/data/CamVid/valannot/x.png", "camvid"),
        ({0, 3}, "/data/camvid/valannot/x.png", None),
        ({0, 3, 11, 12}, "/data/camvid/x.png", None),
        ({0, 3, 11}, "/data/labels/x.png", None),
        ({0, 18, 255}, "x/a_gtFine_labelTrainIds.png", "cityscapes_trainids"),
        ({0, 7, 12}, "x/a_gtFine_labelIds.png", "cityscapes"),
        ({0, 7, 26}, "cityscapes/gtFine/a.png", "cityscapes"),
        ({0, 7, 255}, "cityscapes/a.png", "cityscapes_trainids"),
        ({0, 7, 11}, "cityscapes/a.png", None),
        ({0, 150}, "annotations/ADE_val_00000001.png", "ade20k"),
        ({0, 151}, "annotations/ADE_val_00000001.png", None),
    ],
)
def test_guess_from_ids_and_path(values, hint, expected):
    assert taxonomy.guess_label_taxonomy(values, hint) == (expected and taxonomy.get(expected))


@pytest.mark.parametrize("name", [*taxonomy.BUILTIN, "cityscapes_trainids"])
def test_yaml_round_trip(name, tmp_path):
    path = tmp_path / "t.yaml"
    taxonomy.get(name).to_yaml(path)
    assert taxonomy.get(path) == taxonomy.get(name)


def test_small_file_of_ones_own(tmp_path):
    path = tmp_path / "yard.yaml"
    path.write_text("classes:\n  - {id: 1, name: forklift, thing: true}\n  - {id: 0, name: ground}\n")
    t = taxonomy.get(str(path))
    assert (t.name, t.names) == ("yard", ("ground", "forklift"))
    assert (t.file_ids, t.ignore) == ({0: 0, 1: 1}, ())
    assert t.classes[1].thing
    assert t.classes[0].colour != t.classes[1].colour


ONE = "{id: 0, name: a}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected keys and values"),
        ("- 1", "expected keys and values"),
        ("classes: [}", "not valid YAML"),
        ("name: a\nname: b", "not valid YAML: name is given twice"),
        ("colours: []", "unknown key 'colours'; known are classes, name, file_ids, ignore, merge_into$"),
        ("name: 3\nclasses: [{id: 0, name: a}]", "name: expected text, found 3"),
        ("name: x", "key 'classes' is missing"),
        ("classes: []", r"classes: expected a list of at least 1 entries, found \[\]"),
        ("classes: {a: 0}", 'classes: expected a list, found {"a": 0}'),
        ("classes: [road]", r"classes\[0\]: expected keys and values \(id, name, .*, found 'road'"),
        (
            "classes: [{id: 0, name: a, color: [0, 0, 0]}]",
            r"classes\[0\]: unknown key 'color'; known are id, .*: colour",
        ),
        ("classes: [{name: a}]", r"classes\[0\]: key 'id' is missing"),
        ("classes: [{id: true, name: a}]", r"classes\[0\].id: expected a whole number, found true"),
        ("classes: [{id: -1, name: a}]", r"classes\[0\].id: expected a whole number at least 0, found -1"),
        ("classes: [{id: 0}]", r"classes\[0\]: key 'name' is missing"),
        ("classes: [{id: 0, name: ' '}]", r"classes\[0\].name: expected text, found ' '"),
        (f"classes: [{ONE}, {{id: 0, name: b}}]", r"classes\[1\].id: 0 is used twice"),
        (f"classes: [{ONE}, {{id: 1, name: a}}]", r"classes\[1\].name: 'a' is used twice"),
        (f"classes: [{ONE}, {{id: 2, name: b}}]", "ids must be 0 to 1; 1 is missing"),
        ("classes: [{id: 999999, name: a}]", "ids must be 0 to 0; 0 is missing"),
        (
            "classes: [{id: 0, name: a, colour: [0, 0, 256]}]",
            r"\[0\].colour\[2\]: expected a whole number at most 255, found 256",
        ),
        ("classes: [{id: 0, name: a, colour: red}]", r"classes\[0\].colour: expected a list.* found 'red'"),
        ("classes: [{id: 0, name: a, thing: 1}]", r"classes\[0\].thing: expected true or false"),
        ("classes: [{id: 0, name: a, aliases: b}]", r"classes\[0\].aliases: expected a list"),
        (f"classes: [{ONE}]\nfile_ids: [0]", r"file_ids: expected keys and values, found \[0\]"),
        (f"classes: [{ONE}]\nfile_ids: {{70000: 0}}", "file_ids: a key: expected .* at most 65535, found 70000"),
        (f"classes: [{ONE}]\nfile_ids: {{1: 5}}", "file_ids.1: no class has the id 5"),
        (f"classes: [{ONE}]\nignore: 255", "ignore: expected a list, found 255"),
        (f"classes: [{ONE}]\nignore: [-1]", r"ignore\[0\]: expected a whole number at least 0, found -1"),
        (f"classes: [{ONE}]\nignore: [0]", "ignore: 0 is a class in file_ids, too; leave it out of one"),
        (f"classes: [{ONE}]\nmerge_into: {{camvid: car}}", "merge_into.camvid: expected keys and values, found 'car'"),
        (f"classes: [{ONE}]\nmerge_into: {{camvid: {{b: car}}}}", "merge_into.camvid: there is no class 'b'"),
        (f"classes: [{ONE}]\nmerge_into: {{camvid: {{a: 3}}}}", "merge_into.camvid.a: expected text, found 3"),
    ],
)
def test_mistakes_are_named_in_one_line(text, message, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(TaxonomyError, match=message) as caught:
        taxonomy.get(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_merge_into_an_unknown_class(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"classes: [{ONE}]\nmerge_into: {{camvid: {{a: tram}}}}")
    with pytest.raises(TaxonomyError, match=re.escape("merge_into.camvid.a: camvid has no class 'tram'")):
        taxonomy.merge_table(taxonomy.get(path), taxonomy.get("camvid"))


def test_unknown_names_and_files(tmp_path):
    with pytest.raises(TaxonomyError, match=r"'cityscape': give one of cityscapes, .*_trainids, .*_labelids, or"):
        taxonomy.get("cityscape")
    with pytest.raises(TaxonomyError, match="no such taxonomy file"):
        taxonomy.get(tmp_path / "absent.yaml")
    folder = tmp_path / "folder.yaml"
    folder.mkdir()
    with pytest.raises(TaxonomyError, match=r"is no regular file|is no text in UTF-8"):
        taxonomy.get(folder)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TaxonomyError, match=r"is no regular file|is no text in UTF-8"):
        taxonomy.get(binary)


@pytest.mark.parametrize(
    "one, other", [("Straße, nass", "Straße, trocken"), ("< 10 cm", "> 10 cm"), ("Auto", "auto"), ("+", "-")]
)
def test_classes_that_a_comma_punctuation_or_case_tells_apart_stay_apart(one, other):
    model, data = taxonomy.from_names("model", [one, other]), taxonomy.from_names("data", [other, one])
    assert taxonomy.difference(model, [one, other]) == ""
    assert taxonomy.difference(model, [other, one]) == f"its class 0 is {one!r}, not {other!r}"
    assert taxonomy.merge_table(data, model)[:2].tolist() == [1, 0]


def test_the_two_encodings_of_an_umlaut_are_one_name():
    assert taxonomy.difference(taxonomy.from_names("yard", ["Möbel"]), ["Mo\u0308bel"]) == ""


def test_a_name_that_may_be_either_of_two_classes_is_neither():
    wet_and_dry = taxonomy.from_names("yard", ["road, wet", "road, dry", "tree"])
    table = taxonomy.merge_table(taxonomy.from_names("other", ["Tree", "road"]), wet_and_dry)
    assert table[:2].tolist() == [2, 255]
    back = taxonomy.merge_table(wet_and_dry, taxonomy.from_names("other", ["road", "road, icy"]))
    assert back[:3].tolist() == [0, 0, 255]
    assert taxonomy.merge_table(wet_and_dry, taxonomy.from_names("t", ["tree", "road, icy"]))[:3].tolist() == [
        255
    ] * 2 + [0]


MANY = range(65536)
HOSTILE = {
    "65,536 ids of a key twice": ("file_ids: {" + "".join(f"{i}: 0, " for i in MANY) + "0: 0}", "0 is given twice"),
    "a billion laughs": (
        "a: &a0 [x]\n" + "".join(f"b{i}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(60)),
        "it comes to more than",
    ),
    "a long name": (f"classes: [{{id: 0, name: {'x' * 10**6}}}]", r"classes\[0\].name: a name of 1000000 characters"),
    "a name that moves the cursor": ('classes: [{id: 0, name: "a\\e[2J"}]', "has control characters"),
    "an alias with a line break": ('classes: [{id: 0, name: a, aliases: ["b\\n"]}]', "aliases: 'b.+' has control"),
    "a name with a zero byte": ('name: "a\\0"\nclasses: [{id: 0, name: a}]', "name: .* has control characters"),
    "a huge id": (f"classes: [{{id: {'9' * 10**5}, name: a}}]", "a number of 100000 characters"),
    "no number": ("classes: [{id: .nan, name: a}]", "expected a whole number, found NaN"),
}


@pytest.mark.parametrize(("text", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_refused_in_one_line(text, message, tmp_path):
    path = tmp_path / "t.yaml"
    path.write_text(text)
    with pytest.raises(TaxonomyError, match=message) as caught:
        taxonomy.get(path)
    assert "\n" not in str(caught.value)


def test_many_classes_whose_words_are_the_same_do_not_take_for_ever():
    """20,000 names times 20,000 positions would."""
    alike = taxonomy.from_names("alike", ["a" + "." * i for i in range(200)] + [f"a, {i}" for i in range(20000)])
    other = taxonomy.from_names("other", [f"a; x{i}" for i in range(20000)] + ["a"])
    assert taxonomy.merge_table(other, alike)[: len(other.classes)].tolist() == [alike.unlabelled] * 20000 + [0]


@pytest.mark.parametrize("name", ["a\0", "x" * 10**6, "x" * 300 + ".yaml"])
def test_what_is_no_name_of_a_file(name):
    with pytest.raises(TaxonomyError):
        taxonomy.get(name)


@pytest.mark.parametrize("name", taxonomy.BUILTIN)
def test_own_files_are_read_alike_without_msgspec(name, monkeypatch, tmp_path):
    checked = taxonomy.get(name)
    monkeypatch.setitem(sys.modules, "msgspec", None)
    monkeypatch.delitem(sys.modules, "m2f_ros.taxonomy_file", raising=False)
    monkeypatch.delattr("m2f_ros.taxonomy_file", raising=False)
    checked.to_yaml(tmp_path / "t.yaml")
    as_json = json.loads(json.dumps(checked.to_dict()))
    own = taxonomy._builtin.__wrapped__(name), taxonomy.get(tmp_path / "t.yaml")
    for read in (*own, taxonomy.Taxonomy.from_dict(as_json, "")):
        assert read == checked
        assert hash(read) == hash(checked)
