"""m2f replay as it is called: several drives, workers that die, signals, and what a user may get wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from m2f_ros import taxonomy
from m2f_ros.bags.writer import BagWriter
from m2f_ros.errors import ConfigError
from m2f_ros.model import load
from m2f_ros.pipeline import Frame, Pipeline
from m2f_ros.replay.job import describe
from m2f_ros.replay.run import named, run
from m2f_ros.replay.settings import Settings
from m2f_ros.street import Street

sys.path.insert(0, str(Path(__file__).parent))
from drives import IMAGE, decoded, frame, image_message, messages, pixels, write_drive

LABEL = "/segmentation_node/label"


@pytest.fixture(scope="module")
def settings(small_model):
    return Settings(str(small_model), "cpu", backend="eager", threads=1, part=4, outputs=("label", "panoptic"))


@pytest.fixture(scope="module")
def drives(tmp_path_factory):
    """Three bags of different lengths, and below `one` the results of each by itself."""
    root = tmp_path_factory.mktemp("drives")
    return [str(write_drive(root / name, count=count)) for name, count in (("a", 9), ("b", 5), ("c", 6))]


@pytest.fixture(scope="module")
def one_by_one(drives, settings, tmp_path_factory):
    """The folder of their results, by one worker."""
    out = tmp_path_factory.mktemp("one")
    outcomes, number = run(drives, out, settings)
    assert [(o.status, o.problem, o.next) for o in outcomes] == [("finished", "", n) for n in (9, 5, 6)] and not number
    return out


def equal(out, other, names=("a", "b", "c")):
    return all(messages(out / name, "/stats") == messages(other / name, "/stats") for name in names)


def command(settings, *arguments):
    """The command line with the same settings."""
    options = {"model": settings.model, "device": "cpu", "backend": "eager", "threads": 1, "part": settings.part}
    options["outputs"] = ",".join(settings.outputs)
    given = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return [sys.executable, "-m", "m2f_ros.cli", "replay", *given, *map(str, arguments)]


def call(*arguments):
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=600)


def wait_until(process, happened):
    deadline = time.monotonic() + 600
    while not happened():
        assert time.monotonic() < deadline and process.poll() is None, process.stderr.read()
        time.sleep(0.01)


def test_a_bag_is_opened_once(drives, settings, tmp_path, opened_bags):
    outcomes, _ = run(drives[1:2], tmp_path, settings)
    assert outcomes[0].status == "finished" and opened_bags == [Path(drives[1])]


def test_labels_are_those_of_the_pipeline(drives, settings, one_by_one):
    model = load(settings.model)
    pipeline = Pipeline(model, taxonomy.get("cityscapes"), device="cpu", backend="eager")
    found = decoded(one_by_one / "a", LABEL)
    assert len({pixels(message).tobytes() for _, message in found}) > 1
    for i, (_, message) in enumerate(found):
        np.testing.assert_array_equal(pixels(message), pipeline.segment(frame(i // 3), {"label"}).label)


@pytest.mark.heavy
def test_the_number_of_workers_does_not_matter(drives, settings, one_by_one, tmp_path):
    outcomes, _ = run(drives, tmp_path, settings, workers=2)
    assert [(o.job.drive, o.status, o.segmented) for o in outcomes] == [
        (drive, "finished", count) for drive, count in zip(drives, (9, 5, 6), strict=True)
    ]
    assert equal(tmp_path, one_by_one)


@pytest.mark.process
def test_on_ray(drives, settings, one_by_one, tmp_path):
    pytest.importorskip("ray", reason="Ray is absent")
    outcomes, _ = run(drives[:2], tmp_path, settings, workers=1, ray=True)
    assert [o.status for o in outcomes] == ["finished"] * 2
    assert equal(tmp_path, one_by_one, ("a", "b"))


def test_the_error_of_one_drive_does_not_lose_the_others(drives, settings, one_by_one, tmp_path):
    wrong = [drives[0], "/no/such/drive", str(write_drive(tmp_path / "bad", count=5, bad=(2, 3))), drives[2]]
    outcomes, _ = run(wrong, tmp_path / "out", settings)
    assert [(o.status, o.segmented) for o in outcomes] == [
        *(("finished", 9), ("failed", 0), ("finished", 3), ("finished", 6))
    ]
    assert "does not exist" in outcomes[1].problem
    assert "2 of 5 images cannot be read, the first: /camera/image at 102000000010: data has" in outcomes[2].problem
    assert equal(tmp_path / "out", one_by_one, ("a", "c"))


@pytest.fixture(scope="module")
def long_drive(settings, tmp_path_factory):
    """A drive that takes seconds, and the folder of its result."""
    root = tmp_path_factory.mktemp("long")
    drive = write_drive(root / "d", count=120)
    result = call(settings, drive, "--out", root / "whole")
    assert result.returncode == 0 and "120 images in " in result.stdout, result.stderr
    return drive, root / "whole"


@pytest.mark.process
def test_a_signal_stops_it_and_the_same_command_goes_on(long_drive, settings, tmp_path):
    drive, whole = long_drive
    process = subprocess.Popen(
        command(settings, drive, "--out", tmp_path / "out"), stderr=subprocess.PIPE, text=True, stdout=subprocess.PIPE
    )
    wait_until(process, (tmp_path / "out" / "replay_1.mcap").exists)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 128 + signal.SIGINT and "Traceback" not in err
    count = len(messages(tmp_path / "out")[LABEL])
    assert 8 <= count < 120 and f"stopped after {count} images; the same command goes on from there" in out
    result = call(settings, drive, "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert messages(tmp_path / "out", "/stats") == messages(whole, "/stats")


def both_begun(process, *outs) -> set[int]:
    """Wait until the two workers have written into these folders; their ids. The first one is stopped meanwhile."""
    parts, begun = [out / "replay_0.mcap" for out in outs], set()

    def stop_the_first() -> bool:
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            with suppress(FileNotFoundError):  # a file that was closed meanwhile
                files = [Path(os.readlink(link)) for link in Path(f"/proc/{child}/fd").iterdir()]
                if int(child) not in begun and any(
                    part.exists() and part.parent in f.parents for f in files for part in parts
                ):
                    os.kill(int(child), signal.SIGSTOP)
                    begun.add(int(child))
        return len(begun) == 2

    wait_until(process, stop_the_first)
    return begun


@pytest.mark.process
def test_a_signal_stops_all_workers(long_drive, settings, tmp_path):
    drive, _ = long_drive
    arguments = (drive, drive, drive, "--out", tmp_path, "--workers", 2)
    process = subprocess.Popen(command(settings, *arguments), stderr=subprocess.PIPE, text=True, stdout=subprocess.PIPE)
    workers = both_begun(process, tmp_path / "d", tmp_path / "d__2")
    process.send_signal(signal.SIGTERM)
    for worker in workers:
        os.kill(worker, signal.SIGCONT)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 128 + signal.SIGTERM and "Traceback" not in err
    assert out.count(": stopped after ") == 2 and not (tmp_path / "d__3").exists()
    assert out.count(": stopped before its first image; the same command begins it\n") == 1
    assert 4 <= len(messages(tmp_path / "d")[LABEL]) < 120


@pytest.mark.process
def test_a_worker_that_is_killed(long_drive, settings, tmp_path):
    drive, whole = long_drive
    arguments = (drive, drive, "--out", tmp_path, "--workers", 2)
    process = subprocess.Popen(command(settings, *arguments), stderr=subprocess.PIPE, text=True, stdout=subprocess.PIPE)
    for worker in both_begun(process, tmp_path / "d", tmp_path / "d__2"):
        os.kill(worker, signal.SIGKILL)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0 and out.count("120 images in ") == 2, err
    assert err.count(f"a worker died over {drive}; another one goes on with it\n") == 2
    for name in ("d", "d__2"):
        assert messages(tmp_path / name, "/stats") == messages(whole, "/stats")


@pytest.mark.process
def test_what_a_user_gets_wrong_is_one_line(drives, settings, tmp_path):
    result = call(settings, drives[0], "--topics", "/front", "--out", tmp_path / "out")
    (line,) = result.stderr.splitlines()
    assert result.returncode == 2 and not (tmp_path / "out").exists()
    assert line == f"m2f: error: --topics /front: no such image topic in {drives[0]}; there is /camera/image (9)"


def test_another_setting_than_it_was_begun_with(drives, settings, one_by_one, tmp_path):
    (outcome,), _ = run(drives[:1], one_by_one / "a", replace(settings, outputs=("label",)))
    assert outcome.status == "failed" and "was begun with outputs label panoptic, now it is label" in outcome.problem
    mask = Image.new("L", (64, 48), 255)
    mask.save(tmp_path / "mask.png")
    masked = replace(settings.space, ignore_masks={"": str(tmp_path / "mask.png")})
    (outcome,), _ = run(drives[:1], one_by_one / "a", replace(settings, space=masked))
    assert outcome.status == "failed" and "was begun with ignore_masks" in outcome.problem
    (outcome,), _ = run(drives[:1], tmp_path / "out", settings)
    (outcome,), _ = run(drives[:1], tmp_path / "out", replace(settings, outputs=("label",)), restart=True)
    assert outcome.status == "finished" and set(messages(tmp_path / "out")) == {
        *(f"/segmentation_node/{name}" for name in ("label", "legend", "stats"))
    }


def test_a_drive_that_was_finished_before(drives, settings, one_by_one):
    (outcome,), _ = run(drives[:1], one_by_one / "a", settings)
    assert describe(outcome) == (
        f"{drives[0]}: was finished before, with 9 images (--restart begins anew): {one_by_one / 'a'}"
    )


def test_what_is_kept_of_a_drive_that_cannot_be_read_on(settings, tmp_path):
    with BagWriter(tmp_path / "d") as bag:
        for i, encoding in enumerate(("rgb8", "rgb8", "rgb8", "bgr8")):
            bag.write("/camera/image", IMAGE, image_message(frame(i).data, (i, 0), encoding=encoding), i)
    for _ in range(2):  # the second one has nothing to do, and says the same
        (outcome,), _ = run([str(tmp_path / "d")], tmp_path / "out", settings)
        assert len(messages(tmp_path / "out")[LABEL]) == 3
        line = describe(outcome)
        assert line.startswith(f"m2f: error: {tmp_path / 'd'}: ") and "mixed encodings" in line
        assert line.endswith(f"; 3 images before that are kept: {tmp_path / 'out'}")


def test_what_a_truncated_bag_holds(drives, settings, one_by_one, tmp_path):
    (file,) = Path(drives[0]).glob("*.mcap")
    (tmp_path / "cut.mcap").write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    for _ in range(2):  # the second one has nothing to do, and says the same
        (outcome,), _ = run([str(tmp_path / "cut.mcap")], tmp_path / "out", settings)
        assert outcome.status == "finished" and "cut.mcap" in outcome.problem
        labels = messages(tmp_path / "out")[LABEL]
        assert 0 < len(labels) < 9 and labels == messages(one_by_one / "a")[LABEL][: len(labels)]


@pytest.mark.heavy
def test_the_shipped_model_with_what_is_written_by_default(tmp_path):
    (outcome,), _ = run(["street:7"], tmp_path, Settings(frames=3, threads=1, backend="eager"))
    assert outcome.status == "finished"
    pipeline = Pipeline(load("street"), taxonomy.get("cityscapes"), backend="eager")
    found = decoded(tmp_path, LABEL)
    for i, (_, message) in enumerate(found):
        street = Street(seed=7).frame(i)
        # Other wanted outputs round here and there the other way.
        label = pipeline.segment(Frame(street.image, "rgb8"), {"label", "confidence"}).label
        assert (pixels(message) == label).mean() > 0.999
        assert (pixels(message) == street.label).mean() > 0.8
    topics = ("label", "overlay", "confidence", "panoptic", "segments", "camera_info", "stats", "legend")
    assert {topic: len(some) for topic, some in messages(tmp_path).items()} == {
        f"/segmentation_node/{name}": 1 if name == "legend" else 3 for name in topics
    }
    record = json.loads((tmp_path / "replay.json").read_text())
    assert record["progress"]["finished"] and 0 < record["pipeline_share"] <= 1


@pytest.mark.parametrize(
    "drives, folders",
    [
        (["a"], [("a", "out")]),
        (["a", "b.mcap"], [("a", "out/a"), ("b.mcap", "out/b")]),
        (["[ab]*"], [("a", "out/a"), ("b.mcap", "out/b")]),
        (["a", "x/a", "street:3"], [("a", "out/a"), ("x/a", "out/a__2"), ("street:3", "out/street_3")]),
        (["absent*"], [("absent*", "out")]),
    ],
)
def test_folders_of_results(tmp_path, monkeypatch, drives, folders):
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "x/a"):
        Path(folder).mkdir(parents=True)
    Path("b.mcap").touch()
    assert named(drives, Path("out")) == [(drive, Path(folder)) for drive, folder in folders]


def test_a_folder_of_bags_stands_for_them(tmp_path):
    for bag in ("bags/b/b_0.mcap", "bags/a/a_0.db3", "images/x/x_0.mcap"):
        (tmp_path / bag).parent.mkdir(parents=True)
        (tmp_path / bag).touch()
    (tmp_path / "images" / "1.png").touch()
    for given in ("bags", "ba*"):
        assert named([str(tmp_path / given)], Path("out")) == [
            (str(tmp_path / "bags" / name), Path("out") / name) for name in "ab"
        ]
    for drive in ("images", "bags/a"):
        assert named([str(tmp_path / drive)], Path("out")) == [(str(tmp_path / drive), Path("out"))]


def test_a_folder_of_recordings_that_do_not_continue_each_other_stands_for_them(tmp_path, settings, caplog):
    for name, count in (("x", 3), ("y", 5)):
        (file,) = write_drive(tmp_path / name, count=count).glob("*.mcap")
        (tmp_path / "both").mkdir(exist_ok=True)
        file.rename(tmp_path / "both" / f"{name}.mcap")
    both = str(tmp_path / "both")
    assert named([both], Path("out")) == [(f"{both}/{name}.mcap", Path("out") / name) for name in "xy"]
    assert f"{both}: 2 recordings that do not continue each other: x.mcap; y.mcap: taken as 2 drives" in caplog.text
    outcomes, _ = run([both], tmp_path / "out", settings)
    assert [(o.status, o.problem, o.next) for o in outcomes] == [("finished", "", 3), ("finished", "", 5)]
    outcomes, _ = run([f"{both}/y.mcap"], tmp_path / "alone", settings)
    assert messages(tmp_path / "alone", "/stats") == messages(tmp_path / "out" / "y", "/stats")


def test_a_bag_by_its_metadata_is_the_same_drive(drives, settings, tmp_path):
    for spec in (drives[1], f"{drives[1]}/metadata.yaml"):  # the second goes on with the first
        (outcome,), _ = run([spec], tmp_path / "out", settings)
        assert (outcome.status, outcome.next, outcome.problem) == ("finished", 5, "")
    assert named([f"{drive}/metadata.yaml" for drive in drives], Path("out")) == [
        (f"{drive}/metadata.yaml", Path("out") / Path(drive).name) for drive in drives
    ]


@pytest.mark.parametrize(
    "wrong, reason",
    [
        ({"outputs": ("label", "labels")}, "there is no labels; take some of label, overlay"),
        ({"outputs": ()}, "take some of"),
        ({"batch": 0}, "batch is 0; it must be 1 or more"),
        ({"part": 0}, "part is 0"),
        ({"threads": -1}, "threads is -1"),
        ({"video": True, "outputs": ("label",)}, "video needs overlay"),
        ({"png": True, "outputs": ("overlay",)}, "png needs label"),
        ({"storage": "sqlite3", "compression": "chunk"}, "compression is chunk with storage sqlite3"),
        ({"storage": "zip"}, "storage is zip"),
    ],
)
def test_settings_that_are_wrong(wrong, reason):
    with pytest.raises(ConfigError, match=reason):
        Settings(**wrong)


def test_a_network_that_finds_no_segments(drives, tmp_path):
    """It gives the other outputs, and says so; those of segments are refused where they are asked for."""
    pytest.importorskip("transformers", reason="transformers is not installed")
    sys.path.insert(0, str(Path(__file__).parents[1] / "model"))
    import adapted

    adapted.write("segformer", tmp_path)
    settings = Settings(str(tmp_path), "cpu", backend="eager", threads=1, size=(64, 96))
    (outcome,), _ = run(drives[1:2], tmp_path / "out", settings)
    assert (outcome.status, outcome.problem, outcome.segmented) == ("finished", "", 5)
    names = {topic.rpartition("/")[2] for topic in messages(tmp_path / "out")}
    assert {"label", "overlay", "confidence", "stats"} <= names and names.isdisjoint({"panoptic", "segments"})
    (refused,), _ = run(drives[1:2], tmp_path / "other", replace(settings, outputs=("label", "panoptic")))
    assert refused.status == "failed"
    assert "classifies pixels and finds no segments: leave out panoptic, or take another model" in refused.problem
