"""A result of which every figure differs from every other."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import pytest

from m2f_ros.benchmark.result import (
    SCHEMA,
    AtRate,
    Comparison,
    Contestant,
    HostTime,
    Input,
    Machine,
    Result,
    Roofline,
    Settings,
    Spread,
    Weights,
    Work,
)


def made_up(start: float = 0.0) -> Result:
    """Figures start + 1.01, start + 2.02, …"""
    numbers = count(1)

    def figure() -> float:
        return start + 1.01 * next(numbers)

    def spread() -> Spread:
        return Spread(7, *sorted(figure() for _ in range(5)))

    def contestant(name: str, side: str) -> Contestant:
        return Contestant(
            name=name,
            side=side,
            what=f"{name}, made up",
            setup_s=figure(),
            time_ms=spread(),
            throughput_fps=figure(),
            stages_ms={"network": figure()},
            at_rate=AtRate(figure(), 50, 40, 10, figure(), figure(), figure(), figure()),
            memory_mb=100 * figure(),
            agreement=figure() / 1000,
            disagreement_margin=figure() * 1e-6,
            class_logit_error=figure() * 1e-6,
            mask_logit_error=figure() * 1e-6,
            roofline_share=figure() / 1000,
        )

    stages = ("upload", "preprocess", "backbone", "pixel decoder", "decoder", "head", "download")
    return Result(
        schema=SCHEMA,
        date="2026-01-02T03:04:05+00:00",
        command="m2f bench --model swin-tiny",
        commit="0123456789abcdef",
        dirty=False,
        machine=Machine("Linux x86_64", "A processor", 2, 4, 16.0, None, None, None),
        versions={"python": "3.11", "torch": "2.13"},
        settings=Settings(against=("hf",), threads=2),
        device="cpu",
        precision="fp32",
        threads=2,
        input=Input("street", 8, (256, 512), (256, 512), "ab" * 32),
        weights=Weights("made up", True, 47_000_000, 19),
        reference="made up",
        reference_labels=11,
        work=Work(figure(), figure(), figure(), figure()),
        roofline=Roofline(figure(), figure(), figure()),
        contestants=[contestant("ours eager", "ours"), contestant("hf", "theirs")],
        comparisons=[Comparison("ours eager", "hf", figure(), spread(), figure(), figure() / 1000)],
        stages_ms={who: {stage: figure() for stage in stages} for who in ("ours", "hf")},
        host=HostTime((1080, 1920), (256, 512), spread()),
    )


@pytest.fixture
def result() -> Result:
    return made_up()


@pytest.fixture
def other_result() -> Result:
    """The same run with other figures."""
    return replace(made_up(1000.0), date="2026-01-03T03:04:05+00:00")
