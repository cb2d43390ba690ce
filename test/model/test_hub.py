"""Checkpoints of the hub, from a server on this machine, in processes of their own."""

import json
import os
import select
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytestmark = pytest.mark.process

SHA = "0123456789abcdef0123456789abcdef01234567"
ASK = """
import sys, types
import m2f_ros
model = types.ModuleType("m2f_ros.model")  # without torch, whose import takes seconds
model.__path__ = [f"{m2f_ros.__path__[0]}/model"]
sys.modules[model.__name__] = model
from m2f_ros.errors import CheckpointError
from m2f_ros.model.hub import find
try:
    print("found", find("owner/name"))
except CheckpointError as error:
    print("error", error)
"""


def ask(tmp_path, port, **environment):
    """The line of a process that looks for owner/name; the cache is `tmp_path`."""
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
        "HF_ENDPOINT": f"http://127.0.0.1:{port}",
        "HF_HUB_CACHE": str(tmp_path),
        "HF_HUB_ETAG_TIMEOUT": "1",
        "HF_HUB_DOWNLOAD_TIMEOUT": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "no_proxy": "127.0.0.1",
        **environment,
    }
    done = subprocess.run([sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout.rstrip("\n")


@contextmanager
def silent_server():
    """The port of a server that accepts and never answers, and what says whether someone has connected."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1], lambda: bool(select.select([server], [], [], 0)[0])


@contextmanager
def serving(files):
    """A hub with one repository: name -> bytes. Gives its port, and the list of paths that are asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path)
            name = self.path.split("?")[0].partition("/resolve/")[2].partition("/")[2]
            if self.path.startswith("/api/models/owner/name"):
                siblings = [{"rfilename": file} for file in files]
                content = json.dumps({"id": "owner/name", "sha": SHA, "siblings": siblings}).encode()
            elif name in files:
                content = files[name]
            else:
                self.send_error(404)
                return
            self.send_response(200)
            for key, value in (("Content-Length", len(content)), ("ETag", f'"{name}"'), ("X-Repo-Commit", SHA)):
                self.send_header(key, str(value))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_GET = do_HEAD

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1], asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def files(small_model):
    top = {path.name: path.read_bytes() for path in small_model.iterdir()}
    others = ["pytorch_model.bin", "README.md", "onnx/config.json", "onnx/model.safetensors", "tokenizer.json"]
    return top | dict.fromkeys(others, b"not to be fetched")


def test_the_files_of_the_top_folder_are_fetched_and_then_the_cache_is_enough(files, tmp_path):
    with serving(files) as (port, asked):
        line = ask(tmp_path, port)
    folder = tmp_path / "models--owner--name" / "snapshots" / SHA
    assert line == f"found {folder}"
    wanted = ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert sorted(path.name for path in folder.rglob("*")) == wanted
    assert {path.rpartition("/")[2] for path in asked if "/resolve/" in path} == set(wanted)

    with silent_server() as (port, connected):
        assert ask(tmp_path, port) == line
        assert not connected()

    (folder / "model.safetensors").unlink()
    assert ask(tmp_path, 1, HF_HUB_OFFLINE="1") == (
        "error model 'owner/name' is not a folder here and not whole in the cache of the Hugging Face hub, and "
        "HF_HUB_OFFLINE is set"
    )


@contextmanager
def dripping_server():
    """The port of a server whose answer never ends."""
    over = threading.Event()

    def answer():
        connection, _ = server.accept()
        with connection, suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            while not over.wait(0.2):
                connection.sendall(b"X-More: 1\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            over.set()
            thread.join()


def test_servers_that_do_not_come_to_an_end(tmp_path):
    error = (
        "error model 'owner/name' is not a folder here and could not be had from http://127.0.0.1:{}: {}; "
        "a folder, or a model that is in the cache, needs no network"
    )
    with silent_server() as (port, connected):
        assert ask(tmp_path, port) == error.format(port, "timed out")
        assert connected()
    with dripping_server() as port:
        assert ask(tmp_path, port) == error.format(port, "no whole answer within 3 s")


def test_a_repository_without_a_checkpoint_in_its_top_folder(tmp_path):
    with serving({"onnx/config.json": b"", "model.onnx": b""}) as (port, asked):
        line = ask(tmp_path, port)
    assert asked == ["/api/models/owner/name"]
    assert line == (
        "error model 'owner/name' of the Hugging Face hub has no config.json with weights as model.safetensors or "
        "pytorch_model.bin in its top folder, but model.onnx; name another"
    )
