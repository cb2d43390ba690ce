"""The page comes from the JSONs alone."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from m2f_ros.benchmark.report import load, page, write_report
from m2f_ros.benchmark.result import AtRate, write
from m2f_ros.benchmark.targets import TARGETS, blame, judge
from m2f_ros.benchmark.targets import figures as of
from m2f_ros.errors import ConfigError

ROOT = Path(__file__).parents[2]


def test_the_page_is_what_the_command_makes():
    assert (ROOT / "docs" / "benchmarks.md").read_text() == page(load(ROOT / "docs" / "benchmarks"))


def figures(text):
    """Numbers with a decimal point in what follows the introduction."""
    return set(re.findall(r"\d+\.\d+(?:e[-+]\d+)?", text.partition("## What must be reached")[2]))


def test_every_figure_comes_from_the_json(result, other_result):
    """With every figure of the JSON another, every figure of the page is, but for the bounds."""
    both = figures(page({"run": result})) & figures(page({"run": other_result}))
    bounds = {f"{target.bound:g}" for target in TARGETS}
    versions = {"3.11", "2.13", "47.0"}
    assert both <= bounds | versions
    assert f"{result.comparisons[0].ratio:.2f}" in figures(page({"run": result}))


def test_without_results():
    text = page({})
    assert text.count("no run committed yet") == len(TARGETS)
    assert "All runs" not in text


def verdict(what, *results):
    found = of({f"run {i}": result for i, result in enumerate(results)})
    return judge(next(target for target in TARGETS if what in target.what), found)


def with_ratio(result, ratio):
    return replace(result, comparisons=[replace(result.comparisons[0], ratio=ratio)])


def test_a_target_is_met_or_missed_by_so_much(result):
    met = verdict("HF eager, eager", with_ratio(result, 1.8))
    assert met.met and met.value == 1.8
    missed = verdict("HF eager, eager", with_ratio(result, 1.62))
    assert not missed.met and missed.missed_by == pytest.approx(0.1)
    assert "| missed by 10.0 % |" in page({"run": with_ratio(result, 1.62)})


def test_a_target_of_at_most(result):
    host = replace(result.host, time_ms=replace(result.host.time_ms, median=3.6))
    missed = verdict("Python thread", replace(result, host=host))
    assert missed.missed_by == pytest.approx(0.2)


def test_the_newest_run_counts_and_of_agreement_the_worst(result):
    old, new = with_ratio(result, 1.0), replace(with_ratio(result, 2.0), date="2026-02-01T00:00:00+00:00")
    assert verdict("HF eager, eager", new, old).value == 2.0

    def agreeing(part):
        return replace(result, contestants=[replace(result.contestants[0], agreement=part), result.contestants[1]])

    worst = verdict("fp32: pixels", agreeing(1.0), agreeing(0.9999999))
    assert worst.value == 0.9999999 and not worst.met
    # A miss does not look like the bound.
    assert "| 0.999999900 |" not in page({"run": agreeing(0.9999999)})
    assert "met |" not in page({"run": agreeing(0.9999)}).partition("fp32: pixels")[2].partition("\n")[0]


def test_runs_of_something_else_do_not_count(result):
    for other in (
        replace(result, threads=4),
        replace(result, precision="bf16"),
        replace(result, input=replace(result.input, network_size=(512, 1024))),
    ):
        assert verdict("HF eager, eager", other).value is None


def test_eight_bits_are_judged_by_the_other_precisions_of_the_run(result):
    own = replace(result.contestants[0], name="ours openvino", throughput_fps=10.0, agreement=1.0)
    others = [replace(own, name=f"ours openvino {x}", precision=x, throughput_fps=30.0, agreement=0.9)
              for x in ("bf16", "int8")]  # fmt: skip
    ratios = {"ours openvino": 1.7, "ours openvino bf16": 1.05}
    first = result.comparisons[0]
    mixed = replace(
        result,
        settings=replace(result.settings, model="street", size=(480, 672), more_precisions=("bf16", "int8")),
        input=replace(result.input, network_size=(480, 672)),
        contestants=[own, *others, result.contestants[1]],
        comparisons=[replace(first, ours="ours openvino", ratio=3.0)]
        + [replace(first, ours="ours openvino int8", theirs=name, ratio=ratio) for name, ratio in ratios.items()]
        + [replace(first, ours="ours openvino int8", theirs="hf", ratio=5.0)],
    )
    assert verdict("int8 as in fp32", mixed).value == 1.7 and verdict("int8 as in fp32", mixed).met
    assert verdict("int8 as in bf16", mixed).missed_by == pytest.approx(0.05 / 1.1)
    # Figures in fp32 are those of fp32.
    assert verdict("480x672, fp32, frame to label: frames a second", mixed).value == 10.0
    assert verdict("480x672, fp32, frame to label: times as fast", mixed).value == 3.0
    assert verdict("fp32: pixels", mixed).value == 1.0


def test_targets_of_a_gpu(result):
    settings = replace(result.settings, model="swin-large", size=(1024, 2048))
    rated = AtRate(30.0, 300, 300, 0, p50_ms=12.0, p99_ms=15.0, max_ms=20.0, jitter_ms=1.0)
    ours = replace(result.contestants[0], throughput_fps=80.0, at_rate=rated, roofline_share=0.4)
    gpu = replace(
        result,
        device="cuda",
        precision="fp16",
        settings=settings,
        input=replace(result.input, network_size=(1024, 2048)),
        machine=replace(result.machine, gpu="A GPU", gpu_memory_gib=80.0, gpu_capability="9.0"),
        contestants=[ours, result.contestants[1]],
    )
    assert verdict("in steady state", gpu).value == 12.5
    assert verdict("share of the roofline", gpu).met
    assert verdict("p99 of latency", gpu).missed_by == pytest.approx(0.05 / 1.2)
    ampere = replace(gpu, machine=replace(gpu.machine, gpu_capability="8.0"))
    assert verdict("in steady state", ampere).value is None


def test_blame_names_the_longest_stages_and_the_least_gain(result):
    ours = {"upload": 1.0, "backbone": 60.0, "decoder": 39.0}
    theirs = {"upload": 9.0, "backbone": 90.0, "decoder": 117.0}
    text = blame(replace(result, stages_ms={"ours": ours, "hf": theirs}))
    assert text == "of an eager pass backbone 60 %, decoder 39 %; of these backbone gains least over HF (1.50 times)"


def test_page_and_plots_are_written(result, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    write(result, tmp_path / "results" / "one.json")
    write(result, tmp_path / "results" / "matrix" / "two.json")
    write_report(tmp_path / "results", tmp_path / "docs" / "page.md")
    text = (tmp_path / "docs" / "page.md").read_text()
    assert text == page(load(tmp_path / "results"))
    assert "## one" in text and "`matrix/two`" in text and "## matrix/two" not in text
    plot = tmp_path / "docs" / "images" / "benchmark_one.png"
    assert plot.read_bytes().startswith(b"\x89PNG") and plot.stat().st_size < 100_000
    assert [path.name for path in plot.parent.iterdir()] == [plot.name]


def test_a_file_that_is_no_result(tmp_path):
    (tmp_path / "bad.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"bad\.json"):
        load(tmp_path)


def test_a_folder_without_results_makes_no_page(tmp_path):
    with pytest.raises(ConfigError, match="has no results; m2f bench --json"):
        write_report(tmp_path, tmp_path / "page.md")
    assert not (tmp_path / "page.md").exists()
