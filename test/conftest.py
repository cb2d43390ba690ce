"""Fixtures of several rooms."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from m2f_ros.processes.children import keep_apart

try:
    from hypothesis import settings
except ImportError:  # a machine with a GPU may have no more than its own tests need
    pass
else:
    # An example has no deadline by the clock: a loaded machine is no fault.
    settings.register_profile("m2f", deadline=None)
    settings.load_profile("m2f")


def pytest_configure() -> None:
    """DDS stays on this machine; each process of pytest-xdist has a domain of its own and does not hear the others."""
    keep_apart(os.environ)
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    if number:
        os.environ["ROS_DOMAIN_ID"] = str(1 + (int(os.environ["ROS_DOMAIN_ID"]) + 17 * number) % 101)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of these rooms have a marker, so that a machine without ROS, or without a GPU, can leave them out."""
    markers = {"cuda": "gpu", "node": "ros", "launch": "ros"}
    for item in items:
        room = item.path.relative_to(Path(__file__).parent).parts[0]
        if room in markers:
            item.add_marker(markers[room])


@pytest.fixture(scope="session", autouse=True)
def signals_as_usual():
    """Processes that tests start take signals, also where pytest runs under nohup or behind a shell's &."""
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory):
    """The tests, and the processes that they start, leave the user's cache of converted networks alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def opened_bags(monkeypatch) -> list[Path]:
    """Paths of the bags that are opened in this process, in order."""
    from m2f_ros.bags.reader import Bag

    paths, really = [], Bag._open
    monkeypatch.setattr(Bag, "_open", lambda bag: (paths.append(bag.path), really(bag))[1])
    return paths


@pytest.fixture(scope="session")
def small_model(tmp_path_factory) -> Path:
    """A small Mask2Former with Cityscapes' classes whose random weights give several classes in an image."""
    import torch

    from m2f_ros import taxonomy
    from m2f_ros.model import ModelConfig, SwinConfig, build, save

    torch.manual_seed(0)
    config = ModelConfig(
        backbone=SwinConfig(24, (1, 1, 1, 1), (1, 2, 2, 4)),
        labels=taxonomy.get("cityscapes").names,
        hidden_dim=32,
        heads=4,
        encoder_layers=1,
        encoder_ffn=32,
        decoder_layers=3,
        decoder_ffn=32,
        num_queries=20,
        taxonomy=taxonomy.get("cityscapes"),
    )
    model = build(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    folder = tmp_path_factory.mktemp("model") / "small"
    save(model, folder)
    return folder
