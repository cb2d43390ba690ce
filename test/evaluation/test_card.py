"""Model cards: the shipped one, and one of a checkpoint of one's own."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from m2f_ros.cli import m2f
from m2f_ros.errors import ConfigError, EvaluationError
from m2f_ros.evaluation.card import Request, failures, make_card, write_card
from m2f_ros.evaluation.card.about import Evaluation, read_about
from m2f_ros.evaluation.card.evidence import Evidence, eval_command, read_facts
from m2f_ros.evaluation.options import Options
from m2f_ros.evaluation.result import Result
from m2f_ros.model import ModelConfig, build, save

pytest.importorskip("jinja2", reason="the card's template needs jinja2")

ROOT = Path(__file__).parents[2]
STREET = ROOT / "m2f_ros/model/weights/street"
SECOND = 10**9
CLASSES = ("road", "car")


@pytest.fixture(scope="module")
def shipped():
    return make_card(Request("street", out=STREET / "README.md"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("own") / "model"
    small = {"hidden_dim": 32, "encoder_layers": 1, "encoder_ffn": 32, "decoder_layers": 1, "decoder_ffn": 32}
    save(build(ModelConfig("efficientnet_lite0", CLASSES, num_queries=4, heads=4, **small)), folder)
    return folder


@pytest.fixture
def own(checkpoint, make_result, tmp_path):
    """own(**fields): the JSON of an evaluation of `checkpoint`."""

    def write(**fields) -> Path:
        frame = [[90, 10, 0], [5, 95, 0]]
        made = make_result([frame, frame], names=list(CLASSES), **{"model": str(checkpoint), **fields})
        made.save(tmp_path / "result.json")
        return tmp_path / "result.json"

    return write


def test_the_shipped_card_is_what_the_command_makes(shipped):
    assert (STREET / "README.md").read_text(encoding="utf-8") == shipped.text, "make card"
    assert len(shipped.failures) == 3
    for name in shipped.failures:
        picture = STREET / name
        assert f"]({name})" in shipped.text
        assert cv2.imread(str(picture)).shape[1] == 968
        assert picture.stat().st_size < 60_000  # it travels with the weights


@pytest.mark.heavy
def test_the_figures_are_of_the_shipped_weights(shipped):
    name, failure = next(iter(shipped.failures.items()))
    (drawn,) = failures.draw([failure], shipped.facts)  # raises where they are of others
    drawn = cv2.imdecode(np.frombuffer(drawn, np.uint8), cv2.IMREAD_COLOR).astype(int)
    assert np.abs(drawn - cv2.imread(str(STREET / name))).mean() < 2  # another backend rounds a label here and there

    other = replace(failure, miou=failure.miou + 0.05)
    with pytest.raises(EvaluationError, match="is of other weights"):
        failures.draw([other], shipped.facts)


def test_links_lead_to_the_files_that_the_figures_are_of(shipped):
    links = re.findall(r"\]\(([^)]+\.json)\)", shipped.text)
    named = {(STREET / link).resolve().relative_to(ROOT).as_posix() for link in links}
    assert named >= {"docs/evaluation/street_simulated.json", "docs/evaluation/street_camvid_val.json"}
    assert any(name.startswith("docs/benchmarks/") for name in named)
    assert all((STREET / link).is_file() for link in links)


def test_the_hub_reads_the_head():
    from huggingface_hub import ModelCard

    data = ModelCard.load(STREET / "README.md").data
    assert (data.license, data.pipeline_tag, data.datasets) == ("cc-by-nc-4.0", "image-segmentation", ["camvid"])
    found = {(r.dataset_name, r.metric_type): r.metric_value for r in data.eval_results}
    for entry in read_about(STREET / "card.yaml").evaluations:
        if entry.model:
            assert (entry.title, "mean_iou") not in found
            continue
        metrics = Result.load(STREET / entry.result).metrics
        assert found[entry.title, "mean_iou"] == pytest.approx(metrics["miou"], abs=5e-5)
        assert found[entry.title, "ece"] == pytest.approx(metrics["ece"], abs=5e-5)


def test_the_commands_of_the_shipped_card_made_its_results():
    for entry in read_about(STREET / "card.yaml").evaluations:
        *_, score, copy = entry.command.splitlines()
        words = shlex.split(score)
        report = words[words.index("--out") + 1]
        assert shlex.split(copy) == ["cp", f"{report}/result.json", entry.result.removeprefix("../../../../")]
        assert options_of(score) == options_of(eval_command(Result.load(STREET / entry.result)))


@pytest.mark.parametrize(
    "options",
    [
        Options(("a", "b c"), ("t",)),
        Options(("a",), ("t", "u"), classes="x.yaml", topic="/l", truth_topic="/g", boundary=False, flips=True),
        Options(("a",), ("t",), taxonomy="camvid", prediction_taxonomy="ade20k", images="i", flips=False, worst=0),
    ],
)
def test_the_command_of_an_evaluation(make_result, options):
    settings = {k: v for k, v in vars(options).items() if k not in ("predictions", "truth", "workers", "ray")}
    settings["problems"] = []
    result = make_result(
        [[[1, 0]]], predictions=", ".join(options.predictions), truth=", ".join(options.truth), settings=settings
    )
    assert options_of(eval_command(result)) == options


def options_of(command: str) -> Options:
    """The options of a line `m2f eval …`."""
    words = shlex.split(command)
    assert words[:2] == ["m2f", "eval"]
    given = m2f.commands["eval"].make_context("eval", words[2:]).params
    given.pop("out")
    return Options(**{**given, "workers": given["workers"] or 0})


def test_a_checkpoint_of_ones_own_by_one_command(checkpoint, own):
    bins = [{"confidence": 0.5, "accuracy": 0.25, "count": 30}, {"confidence": 0.9, "accuracy": 1.0, "count": 10}]
    done = CliRunner().invoke(m2f, ["card", str(checkpoint), "--evaluation", str(own(calibration=bins))])
    assert done.exit_code == 0, done.output
    page = (checkpoint / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert done.output == f"{checkpoint / 'MODEL_CARD.md'}\n"
    assert "| 2 | 0.860 |" in page  # (180 / 210 + 190 / 220) / 2, of two frames
    assert "| road | 50.00 % | 0.857 | 0.900 | 0.947 |" in page
    assert "| road | car | 10.0 % | 66.7 % | 20 |" in page
    assert "| 0.500 | 0.250 | 75.00 % |" in page
    assert "m2f eval RESULT --truth DRIVE --no-flips" in page
    assert "**not stated**" in page
    assert "## Latency\n\nNot measured." in page
    assert "None is noted." in page and not list(checkpoint.glob("*.jpg"))


def test_an_evaluation_of_the_node_is_not_said_to_be_of_m2f_eval(checkpoint, own):
    page = make_card(Request(str(checkpoint), evaluations=(own(settings={"live": True}),))).text
    assert "result.json), made by the evaluation node while a drive was played.\n\n| class |" in page
    assert "m2f eval RESULT" not in page


def test_what_a_card_yaml_says(checkpoint, own, tmp_path):
    own()
    about = tmp_path / "card.yaml"
    about.write_text(
        "name: yard\nlicence: {id: mit, text: Ours.}\nuse: [Yards.]\nnot_for: [Roads.]\nfailures: [Puddles.]\n"
        "data: [{name: yard photos, id: own/yard, licence: MIT, text: 12 images}]\n"
        "evaluations: [{title: The yard, id: own/yard, split: test, result: result.json, command: make yard}]\n"
    )
    card = make_card(Request(str(checkpoint), about=about, out=tmp_path / "cards" / "CARD.md"))
    assert "# yard\n" in card.text and "**mit**. Ours.\n" in card.text
    assert "| yard photos | MIT | 12 images |" in card.text
    assert "- Yards.\n" in card.text and "- Roads.\n" in card.text and "- Puddles.\n" in card.text
    assert "[result.json](../result.json), made by\n\n```bash\nmake yard\n```" in card.text
    done = CliRunner().invoke(m2f, ["card", str(checkpoint), "--about", str(about), "--commands"])
    assert done.output == "make yard\n"


def test_an_evaluation_of_another_model_is_said_to_be_one(checkpoint, own, tmp_path):
    own().rename(tmp_path / "mine.json")
    own(model="out/held_out/model")
    about = tmp_path / "card.yaml"
    entry = "{title: Never seen, result: result.json, command: make other, model: out/held_out/model}"
    about.write_text(f"evaluations: [{{result: mine.json, command: make mine}}, {entry}]")
    card = make_card(Request(str(checkpoint), about=about))
    head, page = card.text.split("\n---\n")
    assert "| Never seen | 2 |" in page and "Never seen" not in head
    assert "### Never seen\n\nNot of the weights of this card, but of `out/held_out/model`.\n\n" in page
    done = CliRunner().invoke(m2f, ["card", str(checkpoint), "--about", str(about), "--commands"])
    assert done.output == "make mine\n"
    about.write_text(f"evaluations: [{entry}]")
    with pytest.raises(EvaluationError, match="nothing was measured: give --evaluation"):
        make_card(Request(str(checkpoint), about=about))
    own(model="street").rename(tmp_path / "result.json")
    about.write_text(f"evaluations: [{{result: mine.json}}, {entry}]")
    with pytest.raises(EvaluationError, match=r"model street, not of out/held_out/model, as the card\.yaml"):
        make_card(Request(str(checkpoint), about=about))


def test_latency_is_of_this_network_alone(checkpoint, own, tmp_path, caplog):
    facts = read_facts(str(checkpoint))
    benchmark = json.loads((ROOT / "docs/benchmarks/cpu_street_352x480.json").read_text())
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    benchmark["settings"]["model"] = str(checkpoint)
    (folder / "other_shape.json").write_text(json.dumps(benchmark))
    benchmark["weights"]["parameters"] = facts.parameters
    (folder / "this.json").write_text(json.dumps(benchmark))
    benchmark["settings"]["model"] = "street"
    (folder / "other_model.json").write_text(json.dumps(benchmark))
    page = make_card(Request(str(checkpoint), evaluations=(own(),), benchmarks=folder)).text
    assert "[this.json]" in page and "other" not in page[page.index("## Latency") :]
    (warning,) = caplog.messages
    assert "other_shape.json: left out" in warning
    eager = next(c for c in benchmark["contestants"] if c["name"] == "ours eager")
    assert f"| eager | {eager['time_ms']['median']:.1f} |" in page


def test_the_worst_frame_of_each_of_the_worst_streets(make_result):
    def row(drive: str, stamp_ns: int, miou: float) -> dict:
        return {"drive": drive, "name": str(stamp_ns), "stamp_ns": stamp_ns, "miou": miou}

    result = make_result([[[1, 0]]] * 5, [[[1, 0]]] * 5, [[[1, 0]]])
    for block in result.blocks:  # two frames a second, from the hundredth second on
        block["first_stamp_ns"] = block["last_stamp_ns"] = 100 * SECOND + block["first"] * SECOND // 2
        block["drive"] = {"drive 0": "street_7", "drive 1": "street_30", "drive 2": "main_street_1"}[block["drive"]]
    result.worst = [
        row("main_street_1", 100 * SECOND, 0.1),
        row("street_30", 102 * SECOND, 0.2),
        row("street_30", 100 * SECOND, 0.3),
        row("street_7", 101 * SECOND + SECOND // 2, 0.4),
    ]
    evidence = Evidence(Evaluation("result.json"), Path("result.json"), result, None)
    found = failures.worst([evidence], 3)
    assert [(f.drive, f.seed, f.rate, f.index, f.seconds, f.miou) for f in found] == [
        ("street_30", 30, 2.0, 4, 2.0, 0.2),
        ("street_7", 7, 2.0, 3, 1.5, 0.4),
    ]
    assert failures.worst([evidence], 1) == found[:1]


@pytest.mark.parametrize(
    "text, problem",
    [
        ("title: x", "unknown key 'title'; known are name, summary, licence"),
        ("licence: mit", r"licence: expected keys and values \(id, text\), found 'mit'"),
        ("use: roads", "use: expected a list, found 'roads'"),
        ("use: [1]", r"use\[0\]: expected text, found 1"),
        ("evaluations: [{title: x}]", r"evaluations\[0\]: key 'result' is missing"),
        ("use: [", "not valid YAML"),
        ("- x", r'expected keys and values \(name, summary, .*\), found \["x"\]$'),
    ],
)
def test_a_wrong_card_yaml(tmp_path, text, problem):
    file = tmp_path / "card.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=problem) as error:
        read_about(file)
    assert str(error.value).startswith(str(file)) and "\n" not in str(error.value)


def test_what_does_not_belong_together(checkpoint, own, tmp_path, monkeypatch):
    def fails(kind: type, problem: str, **asked) -> None:
        with pytest.raises(kind, match=problem) as error:
            write_card(Request(str(checkpoint), **asked))
        assert "\n" not in str(error.value)

    fails(EvaluationError, "nothing was measured: give --evaluation")
    fails(EvaluationError, "nowhere/result.json: no such file", evaluations=(tmp_path / "nowhere/result.json",))
    fails(EvaluationError, "is of the model street, not of", evaluations=(own(model="street"),))
    part = own(settings={"problems": ["a.mcap: cut off", "no prediction came"]})
    fails(EvaluationError, "of a part of the frames, .*: a.mcap: cut off; score whole", evaluations=(part,))
    fails(ConfigError, "no such folder of benchmarks", evaluations=(own(),), benchmarks=tmp_path / "none")
    fails(ConfigError, "none.yaml cannot be read", about=tmp_path / "none.yaml")
    (tmp_path / "file").write_text("")
    fails(EvaluationError, "the card cannot be written to", evaluations=(own(),), out=tmp_path / "file" / "CARD.md")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    fails(ConfigError, "needs jinja2", evaluations=(own(),))


def test_published_weights_are_not_for_commerce(checkpoint, own, monkeypatch):
    hub_id = "facebook/mask2former-swin-tiny-cityscapes-semantic"
    for module in ("card", "evidence"):
        monkeypatch.setattr(f"m2f_ros.evaluation.card.{module}.find", lambda name: checkpoint)
    card = make_card(Request(hub_id, evaluations=(own(model=hub_id),)))
    assert "**cc-by-nc-4.0**" in card.text and "no commercial use" in card.text
    assert card.path == Path("MODEL_CARD.md")
