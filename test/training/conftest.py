"""A labelled folder and a training run small enough for a test."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml


@pytest.fixture(autouse=True)
def one_thread():
    """Numbers are the same every time, and threads that wait for a busy core cost nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six images of 96x80 with CamVid labels: sky above road, a car somewhere, a void corner."""
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (tmp_path / "set" / name).mkdir(parents=True)
    for i in range(6):
        label = np.zeros((80, 96), np.uint8)
        label[40:] = 3
        left = int(rng.integers(0, 80))
        label[45:60, left : left + 16] = 8
        label[:8, :8] = 11
        image = np.stack([label * 20] * 3, -1) + rng.integers(0, 30, (80, 96, 3)).astype(np.uint8)
        cv2.imwrite(str(tmp_path / "set" / "images" / f"{i:02d}.png"), image)
        cv2.imwrite(str(tmp_path / "set" / "labels" / f"{i:02d}.png"), label)
    return tmp_path / "set"


@pytest.fixture
def settings(folder: Path) -> dict:
    """Contents of the YAML of a ten-step run on `folder`; its file belongs into folder's parent."""
    part = {"name": "tiny", "images": "images", "labels": "labels", "taxonomy": "camvid"}
    return {
        "model": {
            "backbone": "efficientnet_lite0",  # the smallest
            "hidden_dim": 32,
            "heads": 4,
            "encoder_layers": 1,
            "encoder_ffn": 32,
            "decoder_layers": 1,
            "decoder_ffn": 32,
            "num_queries": 6,
        },
        "data": {"root": "set", "workers": 0, "train": [part], "evaluate": [part | {"only": ["00"]}]},
        "augment": {"crop": [64, 64]},
        "loss": {"points": 64, "ignore_unlabelled": True},
        "schedule": {"steps": 10, "batch": 2, "warm_up": 3},
        "threads": 1,
        "log_every": 1,
        "save_every": 2,
        "evaluate_every": 5,
    }


@pytest.fixture
def config_file(folder: Path, settings: dict) -> Path:
    path = folder.parent / "run.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture
def config_with_worker(folder: Path, settings: dict) -> Path:
    """The same run with a process that loads its samples."""
    settings["data"]["workers"] = 1
    path = folder.parent / "run_with_worker.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path
