"""`m2f eval` on folders of label files, against the reference implementations on the same files."""

import json

import cv2
import numpy as np
import pytest

from m2f_ros import taxonomy
from m2f_ros.cli import main
from m2f_ros.errors import EvaluationError, LabelError
from m2f_ros.evaluation.options import Options
from m2f_ros.evaluation.result import Result
from m2f_ros.evaluation.run import evaluate
from m2f_ros.street import Street

CITYSCAPES = taxonomy.get("cityscapes")
FRAMES = 3


def label_ids():
    """(256,) uint8: train id -> label id."""
    table = np.zeros(256, np.uint8)
    for label_id, train_id in CITYSCAPES.file_ids.items():
        table[train_id] = label_id
    return table


@pytest.fixture(scope="module")
def shots():
    return [Street(seed=5, width=128, height=96).frame(10 * i) for i in range(FRAMES)]


@pytest.fixture
def cityscapes(tmp_path, shots):
    """(truth, predictions): folders as of Cityscapes, two cities; the predictions are shifted and have holes."""
    for i, shot in enumerate(shots):
        city = ("aachen", "ulm")[i % 2]
        name = f"{city}_{i:06d}_000019"
        ids = label_ids()[shot.label]
        ids[:5] = 3  # out of the region of interest
        instances = ids.astype(np.uint16)
        objects = np.unique(shot.instance[5:])
        for number, instance in enumerate(objects[1:-1]):  # the last stays a group
            instances[shot.instance == instance] = instances[shot.instance == instance] * 1000 + number
        instances[:5] = 3
        predicted = np.roll(label_ids()[shot.label], (2, 3), (0, 1))
        predicted[20:24, 30:40] = 0
        for path, image in (
            (f"gtFine/{city}/{name}_gtFine_labelIds.png", ids),
            (f"gtFine/{city}/{name}_gtFine_instanceIds.png", instances),
            (f"predictions/{name}_gtFine_labelIds.png", predicted),
        ):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / path), image)
    return tmp_path / "gtFine", tmp_path / "predictions"


def run(monkeypatch, capsys, *arguments):
    """(exit status, stdout, stderr) of `m2f eval`."""
    monkeypatch.setattr("sys.argv", ["m2f", "eval", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code or 0, *capsys.readouterr()


def test_scores_are_those_of_cityscapesscripts(cityscapes, monkeypatch):
    official = pytest.importorskip(
        "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling", reason="cityscapesscripts is not installed"
    )
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)  # as it was called until NumPy 2.4
    monkeypatch.setattr(official.args, "quiet", True)
    monkeypatch.setattr(official.args, "JSONOutput", False)
    truth, predictions = cityscapes
    files = sorted(truth.glob("*/*_labelIds.png"))
    wanted = official.evaluateImgLists([str(predictions / p.name) for p in files], list(map(str, files)), official.args)

    result, _ = evaluate(Options((str(predictions),), (str(truth),)))
    assert [d["name"] for d in result.drives] == ["gtFine/aachen", "gtFine/ulm"]
    assert result.metrics["miou"] == pytest.approx(wanted["averageScoreClasses"], abs=1e-9)
    assert result.metrics["iiou"] == pytest.approx(wanted["averageScoreInstClasses"], abs=1e-9)
    for key, scores in (("iou", wanted["classScores"]), ("iiou", wanted["classInstScores"])):
        ours = {c["name"]: c[key] for c in result.classes if c[key] is not None}
        theirs = {name: value for name, value in scores.items() if not np.isnan(value) and name in CITYSCAPES.names}
        assert len(theirs) > 3 and ours == pytest.approx(theirs, abs=1e-9)


def test_panoptic_scores_are_those_of_torchmetrics(tmp_path, shots):
    pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
    import torch
    from torchmetrics.detection import PanopticQuality

    things = {c.id for c in CITYSCAPES.classes if c.thing}
    wanted = PanopticQuality(things, set(range(19)) - things, return_sq_and_rq=True).set_dtype(torch.float64)
    for side, shift in (("truth", 0), ("predictions", 2)):
        rows = []
        (tmp_path / side).mkdir()
        for i, shot in enumerate(shots):
            label, instance = (np.roll(a, shift, axis=1) for a in (shot.label, shot.instance))
            ids = instance.astype(np.int64) + 70000 * (label.astype(np.int64) + 1)
            cv2.imwrite(str(tmp_path / side / f"{i}.png"), np.stack([ids >> 16, ids >> 8 & 255, ids & 255], -1))
            segments = [{"id": s, "category_id": s // 70000, "iscrowd": 0} for s in np.unique(ids).tolist()]
            rows.append({"file_name": f"{i}.png", "segments_info": segments})
        categories = [{"id": c.id + 1, "name": c.name} for c in CITYSCAPES.classes]
        (tmp_path / f"{side}.json").write_text(json.dumps({"annotations": rows, "categories": categories}))
    torch.set_default_dtype(torch.float64)  # in which torchmetrics divides
    try:
        for shot in shots:
            truth = torch.from_numpy(np.stack([shot.label, shot.instance], -1).astype(np.int64))[None]
            wanted.update(truth.roll(2, dims=2), truth)
    finally:
        torch.set_default_dtype(torch.float32)
    result, _ = evaluate(Options((str(tmp_path / "predictions.json"),), (str(tmp_path / "truth.json"),)))
    found = [result.metrics[key] for key in ("pq", "sq", "rq")]
    assert found == pytest.approx(wanted.compute().tolist(), abs=1e-9)
    assert 0.1 < found[0] < 0.9


def test_the_command_prints_a_table_and_writes_the_report(cityscapes, tmp_path, monkeypatch, capsys):
    pytest.importorskip("jinja2", reason="jinja2 is not installed")
    truth, predictions = cityscapes
    status, out, _ = run(monkeypatch, capsys, predictions, "--truth", truth, "--out", tmp_path / "REPORT")
    assert status == 0
    result = Result.load(tmp_path / "REPORT")
    assert f"mean IoU {result.metrics['miou']:.3f}".split() in [line.split()[:3] for line in out.splitlines()]
    road = next(c for c in result.classes if c["name"] == "road")
    assert ["road", f"{road['iou']:.3f}"] in [line.split() for line in out.splitlines()]
    assert out.splitlines()[-1] == f"report: {tmp_path / 'REPORT' / 'report.html'}"
    assert f"{FRAMES} of {FRAMES} frames with ground truth scored" in out.splitlines()
    assert (tmp_path / "REPORT" / "report.html").is_file() and (tmp_path / "REPORT" / "report.md").is_file()


def test_classes_that_no_predicted_class_goes_into_are_said(cityscapes, tmp_path, monkeypatch, capsys):
    pytest.importorskip("jinja2", reason="jinja2 is not installed")
    truth, predictions = cityscapes
    (tmp_path / "map.yaml").write_text("classes: {ground: road, rest: [building, sky, vegetation]}")
    # Train ids of predictions that know the road alone.
    taxonomy.from_names("roads", ["road"]).to_yaml(tmp_path / "roads.yaml")
    for path in predictions.iterdir():
        ids = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), np.where(ids == 7, 0, 255).astype(np.uint8))
    given = [predictions, "--truth", truth, "--prediction-taxonomy", tmp_path / "roads.yaml", "--out", tmp_path / "R"]
    status, _, err = run(monkeypatch, capsys, *given, "--classes", tmp_path / "map.yaml")
    line = "m2f: not comparable: no predicted class is mapped to rest, which can only score 0; give --classes FILE.yaml"
    assert (status, [text for text in err.splitlines() if text.startswith("m2f:")]) == (0, [line])
    assert Result.load(tmp_path / "R").settings["not_comparable"] == ["rest"]
    for report in ("report.md", "report.html"):
        assert "not comparable" in (tmp_path / "R" / report).read_text()


@pytest.mark.process
@pytest.mark.parametrize("more", [{"workers": 2}, {"ray": True, "workers": 2}], ids=["processes", "ray"])
def test_workers_change_nothing(cityscapes, more):
    if "ray" in more:
        pytest.importorskip("ray", reason="ray is not installed")
    truth, predictions = cityscapes
    one, several = (evaluate(Options((str(predictions),), (str(truth),), **w)) for w in ({"workers": 1}, more))
    assert one == several


def test_frames_without_prediction_are_missing(cityscapes):
    truth, predictions = cityscapes
    gone, *_ = sorted(predictions.iterdir())
    gone.rename(predictions / "another_000000_000001_gtFine_labelIds.png")
    result, _ = evaluate(Options((str(predictions),), (str(truth),)))
    assert result.frames == {"truth": FRAMES, "scored": FRAMES - 1, "missing": 1, "without_truth": 1}


@pytest.mark.heavy
@pytest.mark.parametrize(
    "allowed, status", [("0", 2), ("1", 2), ("2", 0), ("66%", 2), ("66.7%", 0)], ids=["none", "1", "2", "66%", "66.7%"]
)
def test_a_truth_frame_without_prediction_is_a_part_unless_allowed(
    cityscapes, tmp_path, monkeypatch, capsys, allowed, status
):
    pytest.importorskip("jinja2", reason="jinja2 is not installed")
    truth, predictions = cityscapes
    for gone in sorted(predictions.iterdir())[1:]:
        gone.unlink()
    given = [predictions, "--truth", truth, "--out", tmp_path / "R", "--worst", 0, "--no-boundary"]
    found, out, err = run(monkeypatch, capsys, *given, "--allow-missing", allowed)
    line = "no prediction came for 2 of 3 frames with ground truth (1 of 2 in gtFine/aachen, 1 of 1 in gtFine/ulm)"
    assert found == status
    assert Result.load(tmp_path / "R").settings["problems"] == ([line] if status else [])
    assert (f"m2f: scored as far as it goes: {line}" in err) == bool(status)
    assert "1 of 3 frames with ground truth scored, 2 missing" in out
    assert ("Scored as far as it goes: no prediction came" in (tmp_path / "R" / "report.md").read_text()) == bool(
        status
    )


def test_a_match_by_order_is_said(cityscapes, caplog):
    truth, predictions = cityscapes
    for i, path in enumerate(sorted(predictions.iterdir())):
        path.rename(predictions / f"{i}_gtFine_labelIds.png")
    result, _ = evaluate(Options((str(predictions),), (str(truth),)))
    assert result.settings["matched_in_order"] is True and result.frames["missing"] == 0
    assert caplog.messages[-1] == f"{predictions}: no name is that of a frame of {truth}: matched in their order"


def test_predictions_between_sparse_truth_are_no_fault(cityscapes, tmp_path, monkeypatch, capsys):
    pytest.importorskip("jinja2", reason="jinja2 is not installed")
    truth, predictions = cityscapes
    for gone in sorted(truth.glob("*/*"))[2:]:
        gone.unlink()
    status, out, _ = run(monkeypatch, capsys, predictions, "--truth", truth, "--out", tmp_path / "R", "--worst", 0)
    assert status == 0
    assert "1 of 1 frames with ground truth scored; 2 predictions without ground truth" in out


def write_ids(folder, *rows):
    """Label PNGs 0.png, 1.png, … of one row each."""
    folder.mkdir()
    for i, row in enumerate(rows):
        cv2.imwrite(str(folder / f"{i}.png"), np.uint8([row]))
    return folder


def test_classes_that_a_mean_is_over_are_said(tmp_path, monkeypatch, capsys):
    pytest.importorskip("jinja2", reason="jinja2 is not installed")
    truth = write_ids(tmp_path / "truth", [0, 10, 255], [13, 13, 0])
    predictions = write_ids(tmp_path / "predictions", [0, 10, 10], [13, 13, 0])
    given = [predictions, "--truth", truth, "--taxonomy", "cityscapes_trainids", "--out", tmp_path / "R"]
    status, out, _ = run(monkeypatch, capsys, *given)
    names = (
        "sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation, terrain, person, rider, truck"
    )
    lines = [
        "mean IoU over 3 of 19 classes: road, sky, car",
        f"never in the ground truth: {names} and 4 more (16 of 19 classes)",
    ]
    assert status == 0 and out.splitlines()[-3:-1] == lines
    assert json.loads((tmp_path / "R" / "result.json").read_text())["notes"] == lines
    for report in ("report.md", "report.html"):
        text = (tmp_path / "R" / report).read_text()
        assert all(f"Note: {line}." in text for line in lines)


def test_a_truth_that_is_all_one_class_is_said_and_guards_nothing(tmp_path, monkeypatch, capsys):
    pytest.importorskip("jinja2", reason="jinja2 is not installed")
    truth = write_ids(tmp_path / "truth", [0, 0, 255])
    status, out, _ = run(
        monkeypatch, capsys, truth, "--truth", truth, "--taxonomy", "cityscapes_trainids", "--out", tmp_path / "R"
    )
    assert status == 0
    assert "the ground truth is all road: no score of it tells classes apart" in out.splitlines()
    monkeypatch.setattr("sys.argv", ["m2f", "compare", str(tmp_path / "R"), str(tmp_path / "R")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert f"m2f: error: {tmp_path / 'R'}: its ground truth is all road" in capsys.readouterr().err


def test_a_truth_without_any_class_is_an_error(tmp_path):
    truth = write_ids(tmp_path / "truth", [255, 255])
    with pytest.raises(EvaluationError, match="no pixel of the ground truth is of a class, all are unlabelled"):
        evaluate(Options((str(truth),), (str(truth),), taxonomy="cityscapes_trainids"))


def test_labels_counted_from_1_and_masks_are_refused(tmp_path):
    (tmp_path / "own.yaml").write_text("classes: [{id: 0, name: road}, {id: 1, name: car}, {id: 2, name: sky}]")
    for name, row in (("from1", [1, 2, 3]), ("mask", [0, 255, 0])):
        truth = write_ids(tmp_path / name, [0, 1, 2], row)
        with pytest.raises(LabelError, match=rf"{name}/1.png: holds the id {max(row)}, which own has not; say with"):
            evaluate(Options((str(truth),), (str(truth),), taxonomy=str(tmp_path / "own.yaml")))


def test_files_of_the_truth_that_its_json_names_are_missed(tmp_path):
    rows = [{"file_name": f"{i}.png", "segments_info": [{"id": i, "category_id": i}]} for i in (1, 2)]
    categories = [{"id": i, "name": f"c{i}"} for i in (1, 2)]
    (tmp_path / "t.json").write_text(json.dumps({"annotations": rows, "categories": categories}))
    (tmp_path / "t").mkdir()
    cv2.imwrite(str(tmp_path / "t" / "1.png"), np.uint8([[[0, 0, 1]]]))
    json_file = (str(tmp_path / "t.json"),)
    result, _ = evaluate(Options(json_file, json_file))
    assert result.settings["problems"] == ["1 files that the JSON of the ground truth names are not there"]
    assert evaluate(Options(json_file, json_file, allow_missing="1"))[0].settings["problems"] == []


def test_images_are_shown_and_flips_measured_when_asked(cityscapes, shots, tmp_path):
    truth, predictions = cityscapes
    for path, shot in zip(sorted(truth.glob("*/*_labelIds.png")), (shots[0], shots[2], shots[1]), strict=True):
        name = path.name.replace("gtFine_labelIds", "leftImg8bit")
        (tmp_path / "images").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "images" / name), shot.image[..., ::-1])
    options = {"predictions": (str(predictions),), "truth": (str(truth),), "images": str(tmp_path / "images")}
    result, worst = evaluate(Options(**options))
    assert result.metrics["flips"] is None
    with_images = cv2.imdecode(np.frombuffer(worst[0].picture, np.uint8), cv2.IMREAD_COLOR)
    assert with_images.shape[1] > 3 * 128
    result, _ = evaluate(Options(**options, flips=True, boundary=False))
    assert 0 < result.metrics["flips"] < 1
    assert result.metrics["boundary_f"] is None


def test_an_image_that_is_damaged_is_left_out_and_named(cityscapes, shots, tmp_path):
    truth, predictions = cityscapes
    (path, *_) = sorted(truth.glob("*/*_labelIds.png"))
    image = tmp_path / "images" / path.name.replace("gtFine_labelIds", "leftImg8bit")
    image.parent.mkdir()
    cv2.imwrite(str(image), shots[0].image[..., ::-1])
    image.write_bytes(image.read_bytes()[:-1])
    result, _ = evaluate(Options((str(predictions),), (str(truth),), images=str(image.parent), boundary=False))
    (line,) = result.settings["without_pictures_and_flips"]
    assert line.startswith(f"{image}: not a readable image: PNG is cut off after ")
    assert result.frames["scored"] == FRAMES


@pytest.mark.parametrize(
    "arguments, fault",
    [
        (["none", "--truth", "TRUTH"], "PREDICTIONS none: no such file or folder"),
        (["PREDICTIONS", "--truth", "TRUTH*x"], "--truth {TRUTH}*x: nothing fits this pattern"),
        (["PREDICTIONS", "--truth", "EMPTY"], "--truth {EMPTY}: no label PNGs in this folder or its subfolders"),
        (["PREDICTIONS", "--truth", "TRUTH", "--truth", "EMPTY"], "no predictions for EMPTY"),
        (["PREDICTIONS", "PREDICTIONS", "--truth", "TRUTH"], "PREDICTIONS {PREDICTIONS}: is given twice"),
        (["PREDICTIONS", "--truth", "TRUTH", "--classes", "birds"], "unknown taxonomy 'birds'"),
        (["PREDICTIONS", "--truth", "TRUTH", "--images", "EMPTY"], "--images {EMPTY}: no images in this folder"),
        (
            ["PREDICTIONS", "--truth", "TRUTH", "--topic", "/label"],
            "--topic is for bags; {TRUTH} is a folder of labels",
        ),
        (["PREDICTIONS", "--truth", "TRUTH", "--flips"], "--flips needs the pictures: say with --images where"),
        (["PREDICTIONS", "--truth", "TRUTH", "--taxonomy", "camvid"], "which camvid has not; say with --taxonomy"),
        (
            ["PREDICTIONS", "--truth", "TRUTH", "--allow-missing", "many"],
            "--allow-missing many: expected a number of frames, as 20, or a share, as 5%",
        ),
    ],
)
def test_wrong_input_is_one_line(cityscapes, tmp_path, monkeypatch, capsys, arguments, fault):
    truth, predictions = cityscapes
    (tmp_path / "EMPTY").mkdir()
    places = {"TRUTH": truth, "PREDICTIONS": predictions, "EMPTY": tmp_path / "EMPTY"}
    given = [str(places.get(a, str(truth) + "*x" if a == "TRUTH*x" else a)) for a in arguments]
    status, out, err = run(monkeypatch, capsys, *given, "--out", tmp_path / "REPORT")
    assert (status, out) == (2, "")
    (line,) = [line for line in err.splitlines() if line.startswith("m2f:")]
    assert fault.format(**places) in line
    assert not (tmp_path / "REPORT").exists()
