"""The JSON holds everything and nothing else."""

import json

import pytest

from m2f_ros.benchmark import read, write
from m2f_ros.errors import ConfigError


def test_what_is_written_is_read(result, tmp_path):
    path = tmp_path / "new" / "result.json"
    write(result, path)
    assert read(path) == result
    content = json.loads(path.read_text())
    assert content["comparisons"][0]["ratio"] == result.comparisons[0].ratio
    assert content["comparisons"][0]["agreement"] == result.comparisons[0].agreement


def changed(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "change, line",
    [
        (lambda c: c["contestants"][1].pop("memory_mb"), r"contestants\[1\] lacks memory_mb"),
        (lambda c: c["comparisons"][0].update(speed=3), r"comparisons\[0\] has surplus speed"),
        (lambda c: c["host"]["time_ms"].update(median="3"), r"host.time_ms.median is '3', not float"),
        (lambda c: c["machine"].update(cores=True), r"machine.cores is True, not int"),
        (lambda c: c.update(schema=0), "schema 0, not 1"),
        (lambda c: c.update(stages_ms=[1]), "stages_ms is"),
        (lambda c: c["settings"].update(size=[255, 512]), "--size 255x512"),
    ],
)
def test_another_form_is_refused(result, tmp_path, change, line):
    path = tmp_path / "result.json"
    write(result, path)
    changed(path, change)
    with pytest.raises(ConfigError, match=line):
        read(path)


def test_no_json(tmp_path):
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ConfigError, match=r"broken\.json: not valid JSON"):
        read(tmp_path / "broken.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path / "absent.json")


def test_a_whole_number_is_a_figure(result, tmp_path):
    path = tmp_path / "result.json"
    write(result, path)
    changed(path, lambda c: c["roofline"].update(bound_ms=5))
    assert read(path).roofline.bound_ms == 5.0
