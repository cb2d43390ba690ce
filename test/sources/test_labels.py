"""Label PNGs: every way to store ids is read as ids, files find their frames, and ids get their meaning."""

import struct
import zlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2f_ros import taxonomy
from m2f_ros.datasets.ids import choose_taxonomy, natural_sort, read_ids
from m2f_ros.errors import SourceError, TaxonomyError
from m2f_ros.sources.labels import Labels, match_files, taxonomy_of_legend

GREY, PALETTE = 0, 3


def write_png(path, ids, bits, colour_type):
    """A PNG by the specification, so that depth and colour type are exactly these."""

    def chunk(tag, data):
        return struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))

    height, width = ids.shape
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in ids]
    else:
        unpacked = (ids[:, :, None] >> np.arange(bits - 1, -1, -1)) & 1
        rows = [np.packbits(row.astype(np.uint8).ravel()).tobytes() for row in unpacked]
    data = b"\x89PNG\r\n\x1a\n"
    data += chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))
    if colour_type == PALETTE:  # colours that have nothing to do with the ids
        data += chunk(b"PLTE", np.random.default_rng(0).permutation(3 * 2**bits).astype(np.uint8).tobytes())
    data += chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))) + chunk(b"IEND", b"")
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("bits", "colour_type"),
    [
        (1, GREY),
        (2, GREY),
        (4, GREY),
        (8, GREY),
        (16, GREY),
        (1, PALETTE),
        (2, PALETTE),
        (4, PALETTE),
        (8, PALETTE),
    ],
)
def test_ids_not_colours_are_read(tmp_path, bits, colour_type):
    ids = np.random.default_rng(bits).integers(0, 2**bits, (5, 7)).astype(np.uint16)
    ids[0, 0], ids[-1, -1] = 0, 2**bits - 1
    write_png(tmp_path / "a.png", ids, bits, colour_type)
    read = read_ids(tmp_path / "a.png")
    assert read.dtype == (np.uint16 if bits == 16 else np.uint8)
    assert (read == ids).all()


def test_what_is_no_label_file_is_refused_by_name(tmp_path):
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(SourceError, match=r"a\.png: holds colours, not class ids"):
        read_ids(path)
    path.write_bytes(b"GIF89a")
    with pytest.raises(SourceError, match=r"a\.png: not a PNG file, or cut off"):
        read_ids(path)
    for colour_type in (GREY, PALETTE):
        write_png(path, np.zeros((4, 4), np.uint8), 8, colour_type)
        path.write_bytes(path.read_bytes()[:33])
        with pytest.raises(SourceError, match=r"a\.png: damaged label file"):
            read_ids(path)


@given(st.lists(st.integers(0, 10**6), unique=True))
def test_natural_sort_is_by_number(numbers):
    paths = [Path(f"frame{n}.png") for n in numbers]
    assert natural_sort(paths) == [Path(f"frame{n}.png") for n in sorted(numbers)]


def test_natural_sort_takes_any_names():
    names = ["2.png", "a2.png", "10.png", "A10.png", "02.png", "x.png"]
    assert [p.name for p in natural_sort(map(Path, names))] == [
        "02.png",
        "2.png",
        "10.png",
        "a2.png",
        "A10.png",
        "x.png",
    ]


@pytest.mark.parametrize(
    ("files", "names", "expected"),
    [
        (["b.png", "a.png"], ["a", "b"], ["a.png", "b.png"]),
        (["a_L.png"], ["a", "b"], ["a_L.png", None]),
        (["a_label.png", "b_label.png", "b.png"], ["a", "b"], ["a_label.png", "b_label.png"]),
        (
            ["x_gtFine_labelIds.png", "x_gtFine_labelTrainIds.png", "x_gtFine_color.png"],
            ["x_leftImg8bit"],
            ["x_gtFine_labelTrainIds.png"],
        ),
        (["x_gtFine_labelIds.png", "x_gtFine_color.png"], ["x_leftImg8bit"], ["x_gtFine_labelIds.png"]),
        (["1.png", "2.png"], ["v_000000", "v_000001"], ["1.png", "2.png"]),
        (["1.png", "2.png"], ["v_000000", "v_000001", "v_000002"], [None, None, None]),
        (["1.png", "b.png"], ["a", "b"], [None, "b.png"]),
    ],
)
def test_files_find_their_frames(files, names, expected):
    assert match_files([Path(f) for f in files], names) == [e and Path(e) for e in expected]


@pytest.mark.parametrize(
    ("spec", "file"),
    [
        (None, "a_gtFine_labelTrainIds.png"),
        ("cityscapes", "a_gtFine_labelTrainIds.png"),
        ("cityscapes_trainids", "a_gtFine_labelTrainIds.png"),
        ("cityscapes_labelids", "a_gtFine_labelIds.png"),
    ],
)
def test_of_two_kinds_of_ids_those_of_the_taxonomy_are_read(tmp_path, spec, file):
    cv2.imwrite(str(tmp_path / "a_gtFine_labelIds.png"), np.uint8([[7, 26, 4]]))
    cv2.imwrite(str(tmp_path / "a_gtFine_labelTrainIds.png"), np.uint8([[0, 13, 255]]))
    labels = Labels(tmp_path, ["a_leftImg8bit"], spec)
    assert labels.file(0).name == file
    assert labels.read(0, np.zeros((1, 3, 3), np.uint8), "a").tolist() == [[0, 13, 255]]


def test_labels_are_train_ids(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.uint8([[0, 4, 11, 255]]))
    labels = Labels(tmp_path, ["a", "b"], "camvid")
    image = np.zeros((1, 4, 3), np.uint8)
    assert labels.read(0, image, "a.jpg").tolist() == [[0, 4, 255, 255]]
    assert labels.read(1, image, "b.jpg") is None
    assert labels.read(2, image, "c.jpg") is None
    assert labels.matched == 1
    with pytest.raises(SourceError, match=r"a\.png: the label is 4x1 but its image a\.jpg is 5x2"):
        labels.read(0, np.zeros((2, 5, 3), np.uint8), "a.jpg")


def test_an_id_that_the_taxonomy_has_not(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.uint8([[0, 4, 77, 255]]))
    labels = Labels(tmp_path, ["a"], "camvid")
    with pytest.raises(SourceError, match=r"a\.png: holds the id 77, which camvid has not; .*--taxonomy, or TAXONOMY="):
        labels.read(0, np.zeros((1, 4, 3), np.uint8), "a.jpg")


def test_an_id_that_contradicts_the_guess_is_an_error(tmp_path):
    names = [f"{i:02d}" for i in range(20)]
    for i, name in enumerate(names):  # the guess is by some of them
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.uint8([[0, 33 if i == 17 else 1, 18, 255]]))
    labels = Labels(tmp_path, names, "cityscapes")
    assert labels.taxonomy == taxonomy.get("cityscapes_trainids")
    image = np.zeros((1, 4, 3), np.uint8)
    assert labels.read(16, image, "16.jpg").tolist() == [[0, 1, 18, 255]]
    with pytest.raises(
        SourceError, match=r"17\.png: holds the id 33, which cityscapes\w* has not; say what its ids mean"
    ):
        labels.read(17, image, "17.jpg")


def test_more_than_255_classes(tmp_path):
    taxonomy.from_names("many", [f"c{i}" for i in range(300)]).to_yaml(tmp_path / "many.yaml")
    folder = tmp_path / "labels"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), np.uint16([[0, 299, 65535]]))
    cv2.imwrite(str(folder / "b.png"), np.uint16([[0, 299, 300]]))
    labels = Labels(folder, ["a", "b"], str(tmp_path / "many.yaml"))
    label = labels.read(0, np.zeros((1, 3)), "a")
    assert label.dtype == np.uint16
    assert label.tolist() == [[0, 299, 65535]]
    with pytest.raises(SourceError, match=r"b\.png: holds the id 300, which many has not"):
        labels.read(1, np.zeros((1, 3)), "b")


def test_folders_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(SourceError, match=r"labels .*absent: no such folder"):
        Labels(tmp_path / "absent", ["a"], "camvid")
    with pytest.raises(SourceError, match="no label PNGs in this folder"):
        Labels(tmp_path, ["a"], "camvid")
    cv2.imwrite(str(tmp_path / "z.png"), np.uint8([[0, 3]]))
    with pytest.raises(SourceError, match=r"none of its 1 files \(first: z\.png\) .* 2 frames \(first: a\)"):
        Labels(tmp_path, ["a", "b"], "camvid")
    plain = r"its ids 0, 3 mean is not plain; name their taxonomy, one of cityscapes.* \(--taxonomy, or TAXONOMY="
    with pytest.raises(SourceError, match=plain):
        Labels(tmp_path, ["z"], None)
    with pytest.raises(TaxonomyError, match="unknown taxonomy 'camvit'"):
        Labels(tmp_path, ["z"], "camvit")


def test_plain_cityscapes_is_told_by_the_ids():
    def chosen(values, hint=""):
        return choose_taxonomy("cityscapes", values, hint, "labels x")

    assert chosen({0, 1, 18, 255}) == taxonomy.get("cityscapes_trainids")
    assert chosen({3, 7, 26}) == taxonomy.get("cityscapes_labelids")
    assert chosen({0, 1}, "a_labelTrainIds.png") == taxonomy.get("cityscapes_trainids")
    assert chosen({0, 7}, "a_labelIds.png") == taxonomy.get("cityscapes_labelids")
    with pytest.raises(SourceError, match="cityscapes_labelids or cityscapes_trainids"):
        chosen({0, 7, 11})


def test_ids_of_which_none_belongs_to_the_taxonomy():
    with pytest.raises(SourceError, match="none of its ids 11, 200 is a class of camvid; is that their taxonomy"):
        choose_taxonomy("camvid", {11, 200}, "", "labels x")


def legend(name, classes):
    rows = [SimpleNamespace(id=c.id, name=c.name, color=c.colour, thing=c.thing) for c in classes]
    return SimpleNamespace(taxonomy=name, classes=rows)


def test_a_legend_of_builtin_classes_can_be_merged_as_that_taxonomy():
    cityscapes = taxonomy.get("cityscapes")
    found = taxonomy_of_legend(legend("mine", cityscapes.classes))
    assert found == cityscapes.with_train_ids() and found.file_ids == {i: i for i in range(19)}

    own = [replace(c, name=c.name.title(), colour=(c.id, 1, 2), thing=c.name == "pole") for c in cityscapes.classes]
    found = taxonomy_of_legend(legend("mine", own))
    assert [(c.name, c.colour, c.thing) for c in found.classes] == [(c.name, c.colour, c.thing) for c in own]
    camvid = taxonomy.get("camvid")
    assert np.array_equal(taxonomy.merge_table(found, camvid), taxonomy.merge_table(cityscapes, camvid))
    assert np.array_equal(taxonomy.merge_table(camvid, found), taxonomy.merge_table(camvid, cityscapes))
