"""The rate over the steps, and what each weight takes of it."""

import pytest

from m2f_ros.training.config import ScheduleConfig, load_config
from m2f_ros.training.network import build_network
from m2f_ros.training.optimiser import build_optimiser, rate_at


def test_rate_rises_and_decays():
    config = ScheduleConfig(steps=110, warm_up=10, rate=1.0, decay="poly")
    assert rate_at(0, config) == pytest.approx(0.1)
    assert rate_at(9, config) == rate_at(10, config) == 1.0
    assert rate_at(60, config) == pytest.approx(0.5**0.9)
    assert rate_at(60, ScheduleConfig(steps=110, warm_up=10, rate=1.0, decay="cosine")) == pytest.approx(0.5)
    assert rate_at(109, ScheduleConfig(steps=110, warm_up=0, rate=1.0, decay="none")) == 1.0
    steps = ScheduleConfig(steps=110, warm_up=10, rate=1.0, decay="step", milestones=(50, 80), gamma=0.1)
    assert [rate_at(step, steps) for step in (0, 49, 50, 79, 80, 109)] == pytest.approx([0.1, 1, 0.1, 0.1, 0.01, 0.01])
    cool = ScheduleConfig(steps=110, stop=60, warm_up=10, rate=1.0, decay="none", cool_down=4)
    assert [rate_at(step, cool) for step in range(54, 60)] == [1, 1, 1, 0.75, 0.5, 0.25]


def test_what_is_decayed_and_what_learns_slowly(config_file):
    config = load_config(config_file)
    model = build_network(config.model, "cityscapes")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    group_of = {
        names[id(p)]: (group["factor"], group["weight_decay"])
        for group in build_optimiser(model, config.schedule).param_groups
        for p in group["params"]
    }
    assert group_of.keys() == set(names.values())
    assert group_of["decoder.class_predictor.weight"] == (1.0, 0.05)
    assert group_of["decoder.class_predictor.bias"] == (1.0, 0.0)
    assert group_of["decoder.norm.weight"] == (1.0, 0.0)
    assert group_of["decoder.query_embed.weight"] == group_of["pixel_decoder.level_embed"] == (1.0, 0.0)
    backbone = {values for name, values in group_of.items() if name.startswith("backbone.")}
    assert backbone == {(0.2, 0.05), (0.2, 0.0)}
