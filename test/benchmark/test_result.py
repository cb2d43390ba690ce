"""The JSON of results: written, read, of other versions. A wrong setting is one line."""

import json
import logging
from dataclasses import replace

import pytest

from m2f_ros.benchmark.result import Result, Settings, parse_names, parse_size, read, write
from m2f_ros.errors import ConfigError


def test_what_is_written_is_read(result, tmp_path):
    path = tmp_path / "new" / "result.json"
    write(result, path)
    assert read(path, Result) == result
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
        (lambda c: c["contestants"][1].pop("time_ms"), r"contestants\[1\]: key 'time_ms' is missing; measure again"),
        (lambda c: c["host"]["time_ms"].update(median="3"), "host.time_ms.median: expected a number, found '3'"),
        (lambda c: c["machine"].update(cores=True), "machine.cores: expected a whole number, found true"),
        (lambda c: c.update(schema=0), "schema 0, not 1"),
        (lambda c: c.update(schema="2"), "schema '2', not 1"),
        (lambda c: c.update(stages_ms=[1]), "stages_ms: expected keys and values, found"),
        (lambda c: c["settings"].update(size=[255, 512]), "--size 255x512"),
    ],
)
def test_another_form_is_refused(result, tmp_path, change, line):
    path = tmp_path / "result.json"
    write(result, path)
    changed(path, change)
    with pytest.raises(ConfigError, match=line):
        read(path, Result)


def test_no_json(tmp_path):
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ConfigError, match=r"broken\.json: not valid JSON"):
        read(tmp_path / "broken.json", Result)
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path / "absent.json", Result)


def test_a_whole_number_is_a_figure(result, tmp_path):
    path = tmp_path / "result.json"
    write(result, path)
    changed(path, lambda c: c["roofline"].update(bound_ms=5))
    assert read(path, Result).roofline.bound_ms == 5.0


def test_an_older_file_lacks_figures(result, tmp_path):
    path = tmp_path / "result.json"
    write(result, path)
    changed(path, lambda c: c["contestants"][1].pop("memory_mb"))
    found = read(path, Result)
    assert found.contestants[1].memory_mb is None
    assert found.contestants[0] == result.contestants[0]


def test_a_newer_file_is_read_on_what_is_known_and_keeps_the_rest(result, tmp_path, caplog):
    path, again = tmp_path / "result.json", tmp_path / "again.json"
    write(result, path)
    changed(path, lambda c: c.update(schema=7, power_w=[{"gpu": 300}]))
    changed(path, lambda c: c["comparisons"][0].update(speed=3))
    changed(path, lambda c: c["contestants"][1]["time_ms"].update(p90=9.5))
    with caplog.at_level(logging.WARNING):
        found = read(path, Result)
    assert found == replace(result, schema=7)
    (record,) = caplog.records
    assert "schema 7, newer than 1 of this m2f" in record.getMessage()
    write(replace(found, date="2027-01-01T00:00:00+00:00"), again)
    assert json.loads(again.read_text()) == json.loads(path.read_text()) | {"date": "2027-01-01T00:00:00+00:00"}


@pytest.mark.parametrize(
    "wrong, line",
    [
        ({"size": (250, 512)}, "--size 250x512: height and width of the network's input must be multiples of 32"),
        ({"size": (250, 512)}, "; take 256x512"),
        ({"size": (0, 32)}, "take 32x32"),
        ({"against": ("tensorrt",)}, "--against tensorrt: not known; take some of hf, compiled, openvino, onnxruntime"),
        ({"backends": ("eager", "eager")}, "names one of them twice"),
        ({"backends": ()}, "--backend: names none"),
        ({"precision": "int4"}, "--precision int4: not known"),
        ({"precision": "int8"}, "--precision int8: give the precision of the others before it: --precision fp32,int8"),
        ({"precision": "fp32", "more_precisions": ("int4",)}, "--precision int4: not known"),
        ({"precision": "fp32", "more_precisions": ("fp32",)}, "names one of them twice"),
        ({"rounds": 0}, "--rounds 0: must be at least 1"),
        ({"batch": 0}, "--batch 0: must be at least 1"),
        ({"threads": 0}, "--threads 0: must be at least 1"),
        ({"rate": 0.0}, "--rate 0: must be above 0"),
        ({"seconds": -1.0}, "--seconds -1: must be 0 to 3600"),
        ({"frame_size": (0, 5)}, "--frame-size 0x5"),
    ],
)  # fmt: skip
def test_impossible_values(wrong, line):
    with pytest.raises(ConfigError) as error:
        Settings(**wrong)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_sizes_and_names():
    assert parse_size("256x512", "--size") == (256, 512)
    for wrong in ("256", "256x", "axb", "256x512x3", "-1x4"):
        with pytest.raises(ConfigError, match="HEIGHTxWIDTH"):
            parse_size(wrong, "--size")
    assert parse_names("hf, compiled") == ("hf", "compiled")
    assert parse_names("none") == parse_names("") == ()
