"""The page's server in this process, bags for it, and its clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("websockets", reason="needs the extra serve")
import uvicorn
from websockets.sync.client import connect

sys.path.insert(0, str(Path(__file__).parents[1] / "replay"))
from drives import IMAGE, START, image_message

from m2f_ros import taxonomy
from m2f_ros.bags.messages import LEGEND, Messages
from m2f_ros.bags.writer import BagWriter
from m2f_ros.serve.listening import listen
from m2f_ros.serve.page.frames import unpacked
from m2f_ros.serve.page.run import config_of

CITYSCAPES = taxonomy.get("cityscapes").with_train_ids()
SIZE = (24, 32)
STAMP = 10**18
TIMEOUT = 600


def label_of(number: int) -> np.ndarray:
    """All classes and unlabelled pixels in blocks of 8x8, which a JPEG leaves apart; shifted from frame to frame."""
    blocks = np.array([*range(12)]).reshape(3, 4) + number
    blocks[blocks % 7 == 3] = 255
    return np.kron(blocks, np.ones((8, 8))).astype(np.uint8)


def image_of(number: int) -> np.ndarray:
    """A plain colour, so that the JPEG has it too."""
    return np.full((*SIZE, 3), 40 * number + 20, np.uint8)


def confidence_of(number: int) -> np.ndarray:
    return np.full(SIZE, 100 + number, np.uint8)


def write_bag(path: Path, frames: int = 4, storage: str = "mcap") -> Path:
    with BagWriter(path, storage=storage) as bag:
        messages = Messages(bag.types)
        bag.add_topic("/seg/legend", LEGEND, latched=True)
        bag.write("/seg/legend", LEGEND, messages.legend(CITYSCAPES, "street"), START)
        for i in range(frames):
            stamp_ns = STAMP + i * 10**8
            for delay, topic, data, encoding in (
                (0, "/camera/image", image_of(i), "bgr8"),
                (1, "/seg/label", label_of(i), "mono8"),
                (2, "/seg/confidence", confidence_of(i), "mono8"),
            ):
                message = image_message(data, divmod(stamp_ns, 10**9), encoding=encoding)
                bag.write(topic, IMAGE, message, START + (i + 1) * 10**8 + delay * 10**7)
    return path


@contextlib.contextmanager
def running(feed, token: str = ""):
    """The server in a thread of its own; yields its port."""
    place = listen("127.0.0.1", 0)
    server = uvicorn.Server(config_of(feed, token))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([place])))
    thread.start()
    try:
        yield place.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        place.close()


class Client:
    """A page without a browser."""

    def __init__(self, port: int, path: str = "/live", **options) -> None:
        self._opened = connect(f"ws://127.0.0.1:{port}{path}", max_size=None, open_timeout=TIMEOUT, **options)
        self.socket = self._opened.__enter__()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._opened.__exit__(*error)

    def send(self, **message) -> None:
        self.socket.send(json.dumps(message))

    def next(self):
        """The next message: JSON, or head and parts of a frame."""
        data = self.socket.recv(timeout=TIMEOUT)
        return json.loads(data) if isinstance(data, str) else unpacked(data)

    def until(self, kind: str, **fields):
        """The next JSON of this type that has these fields."""
        while True:
            found = self.next()
            if isinstance(found, dict) and found["type"] == kind and fields.items() <= found.items():
                return found

    def frame(self):
        """Head and parts of the next frame."""
        while isinstance(found := self.next(), dict):
            pass
        return found

    def state(self):
        """The state, once the recording was read."""
        while (state := self.until("state"))["times"] is None:
            pass
        return state


@contextlib.contextmanager
def browser():
    """Chromium, with pages that report errors; skips where it, or playwright, is absent."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is absent")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("Chromium is absent")
    with api.sync_playwright() as playwright:
        # As root, and in a container, Chromium has no sandbox.
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield chromium
        finally:
            chromium.close()


PIXELS = """() => {
  const canvas = document.querySelector('figure canvas');
  return [canvas.width, canvas.height, ...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data];
}"""


def pixels(page) -> np.ndarray:
    """The canvas, (H, W, 3) RGB."""
    width, height, *values = page.evaluate(PIXELS)
    return np.array(values, np.uint8).reshape(height, width, 4)[..., :3]
