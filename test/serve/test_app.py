"""The server, over real HTTP, and Hugging Face's own client."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))
from stub import LABELS, frame, on_cpu

from m2f_ros.errors import ConfigError, FrameError
from m2f_ros.pipeline.images import ImageSegmenter

pytest.importorskip("fastapi", reason="needs the extra serve")
import uvicorn

from m2f_ros.serve.app import Limits, make_app
from m2f_ros.serve.run import listen, named, serve

PICTURE = frame(1).data


def content_of(picture: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind)
    return file.getvalue()


IMAGE = content_of(PICTURE)


@contextlib.contextmanager
def running(segmenters=None, limits: Limits | None = None, token: str = ""):
    """A server in a thread of its own; yields its port."""
    app = make_app(segmenters or {"stub": ImageSegmenter(on_cpu())}, limits or Limits(), token)
    place = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([place])))
    thread.start()
    try:
        yield place.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        place.close()


@pytest.fixture(scope="module")
def port():
    with running({"stub": ImageSegmenter(on_cpu()), "org/other": ImageSegmenter(on_cpu())}) as port:
        yield port


def ask(port, method="POST", path="/", body=IMAGE, **headers):
    """Returns status, headers and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.headers, content


def error(port, *arguments, **options):
    status, _, content = ask(port, *arguments, **options)
    return status, json.loads(content)["error"]


def expected(picture=PICTURE, **options):
    return ImageSegmenter(on_cpu())(picture, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"subtask": "semantic"},
        {"threshold": 0.99999},
        {"mask_threshold": 0.8, "overlap_mask_area_threshold": 0.0, "subtask": "panoptic"},
    ],
)
@pytest.mark.parametrize("path", ["", "/models/stub", "/models/org/other"])
def test_the_client_of_hugging_face(options, path, port):
    client = pytest.importorskip("huggingface_hub").InferenceClient(f"http://127.0.0.1:{port}{path}")
    found, wanted = client.image_segmentation(IMAGE, **options), expected(**options)
    assert [(one.label, one.score) for one in found] == [(one["label"], one["score"]) for one in wanted]
    for own, other in zip(found, wanted, strict=True):
        assert own.mask.mode == "L"
        np.testing.assert_array_equal(np.asarray(own.mask), np.asarray(other["mask"]))


def test_labels(port):
    label = on_cpu().segment(frame(1), {"label"}).label
    for path in ("/label", "/models/org/other/label"):
        status, headers, content = ask(port, path=path)
        assert (status, headers["content-type"]) == (200, "image/png")
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), label)
        status, headers, content = ask(port, path=path, accept="application/x-npy")
        assert (status, headers["content-type"]) == (200, "application/x-npy")
        np.testing.assert_array_equal(np.load(io.BytesIO(content)), label)


def test_a_jpeg_and_json_are_the_same_image(port):
    jpeg = content_of(PICTURE, "JPEG")
    body = json.dumps({"inputs": base64.b64encode(jpeg).decode(), "parameters": {"subtask": None}})
    assert ask(port, body=jpeg)[2] == ask(port, body=body, content_type="application/json")[2]


def test_the_models_and_their_classes(port):
    models = json.loads(ask(port, "GET", "/models")[2])
    assert list(models) == ["stub", "org/other"]
    assert models["stub"]["subtasks"] == ["panoptic", "instance", "semantic"] and models["stub"]["unlabelled"] == 255
    assert [one["name"] for one in models["stub"]["classes"]] == list(LABELS)


def test_the_page_of_the_interface_loads_nothing_from_elsewhere(port):
    status, _, page = ask(port, "GET", "/docs")
    assert status == 200 and b"http://" not in page and b"https://" not in page
    for file in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png"):
        assert f"docs/files/{file}".encode() in page and ask(port, "GET", f"/docs/files/{file}")[0] == 200
    paths = json.loads(ask(port, "GET", "/openapi.json")[2])["paths"]
    assert {"/", "/label", "/models/{name}", "/models/{name}/label", "/health", "/metrics"} <= paths.keys()


@pytest.mark.parametrize(
    ("body", "headers", "status", "message"),
    [
        (b"hello", {}, 400, "the image: it is none of png, jpg"),
        (b"", {}, 400, "the image: it is none of png"),
        (IMAGE[:100], {}, 400, "PNG is cut off after 100 bytes"),
        (b"{", {"content_type": "application/json"}, 400, "the request is no JSON"),
        (b"[" * 100000, {"content_type": "application/json"}, 400, "the request is no JSON"),
        (b'{"image": 1}', {"content_type": "application/json"}, 400, "the request has no image"),
        (b"{", {"content_type": "Application/JSON; charset=utf-8"}, 400, "the request is no JSON"),
        (b'{"inputs": "a"}', {"content_type": "application/json"}, 400, "the image is no base64"),
    ],
)
def test_no_image(body, headers, status, message, port):
    for path in ("/", "/label"):
        code, words = error(port, path=path, body=body, **headers)
        assert code == status and message in words


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"subtask": "depth"}, "there is no subtask 'depth'"),
        ({"subtask": 7}, "subtask is 7; it must be a name"),
        ({"threshold": 2}, "threshold is 2; it must be a number from 0 to 1"),
        ({"threshold": True}, "threshold is True; it must be a number"),
        ({"mask_treshold": 0.5}, "there is no parameter 'mask_treshold'; take some of subtask, threshold"),
        ([], "parameters must be an object"),
    ],
)
def test_wrong_parameters(parameters, message, port):
    body = json.dumps({"inputs": base64.b64encode(IMAGE).decode(), "parameters": parameters})
    status, words = error(port, body=body, content_type="application/json")
    assert status == 422 and message in words


def test_wrong_paths(port):
    assert error(port, path="/models/absent") == (404, "there is no model 'absent'; there are stub, org/other")
    assert error(port, path="/models/absent/label")[0] == 404
    assert error(port, "GET", "/") == (405, "Method Not Allowed") and error(port, path="/absent") == (404, "Not Found")


def test_limits_on_bytes_and_pixels():
    bomb = content_of(np.zeros((2000, 2000), np.uint8), "PNG")
    with running(limits=Limits(max_bytes=5000, max_pixels=3000)) as port:
        assert error(port, body=bomb) == (
            413,
            "the image has 4000000 pixels; at most 3000 are taken",
        )
        assert error(port, body=bytes(5001)) == (413, "the request has more than 5000 bytes")
        # The length alone is enough: the server does not wait for the rest.
        with socket.create_connection(("127.0.0.1", port), timeout=600) as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: m\r\nContent-Length: 99999999\r\n\r\n" + bytes(20000))
            assert b" 413 " in client.recv(100)
        assert ask(port)[0] == 200


def test_an_image_above_the_bound_of_all_pictures(port):
    status, words = error(port, body=b"P5 60000 60000 255\n" + bytes(99))
    assert (status, words) == (413, "the image: width 60000 x height 60000 is too large: at most 67108864 pixels")


class Held(ImageSegmenter):
    """A segmenter whose device waits for `go`."""

    def __init__(self):
        super().__init__(on_cpu())
        self.go, self.began, self.images = threading.Event(), threading.Semaphore(0), 0
        really = self.pipeline.submit_batch

        def submit(frames, *arguments):
            self.images += len(frames)
            self.began.release()
            assert self.go.wait(600)
            return really(frames, *arguments)

        self.pipeline.submit_batch = submit


def test_too_many_requests_are_told_and_none_is_lost():
    held = Held()
    with running({"stub": held}, Limits(waiting=2)) as port:
        answers, threads = [], [threading.Thread(target=lambda: answers.append(ask(port)[0])) for _ in range(3)]
        threads[0].start()
        assert held.began.acquire(timeout=600)
        for thread in threads[1:]:
            thread.start()
        while b'm2f_waiting_images{model="stub"} 2.0' not in ask(port, "GET", "/metrics")[2]:
            pass
        status, headers, content = ask(port)
        assert (status, headers["retry-after"]) == (429, "1")
        assert json.loads(content)["error"] == "2 images wait already: try again later"
        held.go.set()
        for thread in threads:
            thread.join()
        assert answers == [200] * 3
        page = ask(port, "GET", "/metrics")[2].decode()
    assert 'm2f_requests_total{model="stub",status="200"} 3.0' in page
    assert 'm2f_requests_total{model="stub",status="429"} 1.0' in page


def test_a_client_that_goes_away_costs_nothing():
    held = Held()
    with running({"stub": held}) as port:
        first = threading.Thread(target=ask, args=(port,))
        first.start()
        assert held.began.acquire(timeout=600)
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(f"POST / HTTP/1.1\r\nHost: m\r\nContent-Length: {len(IMAGE)}\r\n\r\n".encode() + IMAGE)
            while b'm2f_waiting_images{model="stub"} 1.0' not in ask(port, "GET", "/metrics")[2]:
                pass
        while b'status="499"' not in ask(port, "GET", "/metrics")[2]:
            pass
        held.go.set()
        first.join()
        assert ask(port)[0] == 200
    assert held.images == 2


def test_a_request_ends_after_the_timeout():
    held = Held()
    with running({"stub": held}, Limits(timeout=0.2)) as port:
        assert error(port) == (504, "there was no result within 0.2 s")
        # A client that sends too slowly.
        with socket.create_connection(("127.0.0.1", port), timeout=600) as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: m\r\nContent-Length: 100\r\n\r\n")
            assert b" 504 " in client.recv(100)
        held.go.set()


def test_a_device_without_memory(monkeypatch):
    segmenter = ImageSegmenter(on_cpu())

    def full(*arguments):
        raise FrameError("cpu has too little memory for a frame")

    monkeypatch.setattr(segmenter.pipeline, "submit_batch", full)
    with running({"stub": segmenter}) as port:
        assert error(port) == (413, "cpu has too little memory for a frame")


def test_a_token():
    with running(token="secret") as port:
        for headers in ({}, {"authorization": "Bearer other"}, {"authorization": "secret"}):
            status, answer, content = ask(port, **headers)
            assert (status, answer["www-authenticate"]) == (401, "Bearer") and b"Authorization" in content
        assert error(port, "GET", "/metrics")[0] == 401
        assert ask(port, authorization="Bearer secret")[0] == 200
        assert ask(port, "GET", "/health")[0] == 200


def test_other_machines_need_a_token():
    with pytest.raises(ConfigError, match=r"^--host 0.0.0.0: other machines reach it; give --token too, or M2F_TOKEN"):
        serve(["street"], "0.0.0.0", 0, "", Limits(), None, print)


@pytest.mark.parametrize("token", ["tök", "a\nb", "a b"])
def test_a_token_that_no_header_can_hold(token):
    with pytest.raises(ConfigError, match=r"^--token: take letters, digits and signs of ASCII"):
        serve(["street"], "127.0.0.1", 0, token, Limits(), None, print)


def test_base64_in_lines_and_as_a_data_url(port):
    answers = set()
    for text in (base64.b64encode(IMAGE).decode(), base64.encodebytes(IMAGE).decode()):
        for prefix in ("", "data:image/png;base64,"):
            body = json.dumps({"inputs": prefix + text})
            status, _, content = ask(port, body=body, content_type="application/json")
            answers.add((status, content))
    assert len(answers) == 1 and answers.pop()[0] == 200


def test_labels_refuse_wrong_parameters_too(port):
    body = json.dumps({"inputs": base64.b64encode(IMAGE).decode(), "parameters": {"subtask": "nonsense"}})
    assert error(port, path="/label", body=body, content_type="application/json")[0] == 422


def test_names_in_urls(tmp_path):
    for name in ("a/model", "b/model"):
        (tmp_path / name).mkdir(parents=True)
    assert named(["street", "org/model", str(tmp_path / "a/model")]) == {
        "street": "street",
        "org/model": "org/model",
        "model": str(tmp_path / "a/model"),
    }
    with pytest.raises(ConfigError, match="have one name in URLs, 'model'"):
        named([str(tmp_path / "a/model"), str(tmp_path / "b/model")])


@pytest.mark.process
def test_the_command(small_model):
    """Labels as the pipeline's; SIGTERM answers what was asked; a port in use is one line."""
    command = [sys.executable, "-m", "m2f_ros", "serve", str(small_model), "--device", "cpu", "--backend", "eager"]
    with subprocess.Popen([*command, "--port", "0"], stderr=subprocess.PIPE, text=True, env=os.environ) as process:
        line = process.stderr.readline().strip()
        assert line.startswith("m2f: http://127.0.0.1:") and line.endswith("/models/small")
        port = int(line.split(":")[3].partition("/")[0])
        second = subprocess.run([*command, "--port", str(port)], capture_output=True, text=True, timeout=600)
        assert second.returncode == 2
        assert second.stderr.strip() == f"m2f: error: port {port} of 127.0.0.1 is in use: give another --port"
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(ask(port, path="/label"))) for _ in range(4)]
        for thread in threads:
            thread.start()
        while b"m2f_waiting_images" not in ask(port, "GET", "/metrics")[2]:
            pass
        for thread in threads:
            thread.join()
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
    assert process.returncode in (143, -signal.SIGTERM) and rest == ""
    assert [status for status, _, _ in answers] == [200] * 4
    assert len({content for _, _, content in answers}) == 1


@pytest.mark.process
def test_two_interrupts_end_at_once_in_one_line(small_model):
    command = [sys.executable, "-m", "m2f_ros", "serve", str(small_model), "--device", "cpu", "--backend", "eager"]
    with subprocess.Popen([*command, "--port", "0"], stderr=subprocess.PIPE, text=True, env=os.environ) as process:
        line = process.stderr.readline().strip()
        port = int(line.split(":")[3].partition("/")[0])
        with socket.create_connection(("127.0.0.1", port)) as client:
            # A request that does not end.
            client.sendall(b"POST / HTTP/1.1\r\nHost: m\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n")
            assert b"100 Continue" in client.recv(100)
            process.send_signal(signal.SIGINT)
            while True:  # until the server has seen the first one
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                except ConnectionRefusedError:
                    break
            process.send_signal(signal.SIGINT)
            rest = process.stderr.read()
    assert (process.returncode, rest.strip()) == (130, "m2f: interrupted")
