"""The page's server, by real WebSockets."""

from __future__ import annotations

import http.client
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from pages import SIZE, STAMP, Client, confidence_of, image_of, label_of, running, write_bag
from websockets.exceptions import InvalidStatus

from m2f_ros.errors import ConfigError, SourceError
from m2f_ros.serve.listening import listen
from m2f_ros.serve.page.feed import Feed
from m2f_ros.serve.page.frames import Content, packed, png_of
from m2f_ros.serve.page.recording import Recording, open_recording
from m2f_ros.serve.page.run import view


def opened(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    return write_bag(tmp_path_factory.mktemp("page") / "bag")


@pytest.fixture
def port(bag):
    with running(Recording(bag)) as port:
        yield port


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_every_moment_of_a_bag(storage, tmp_path):
    path = write_bag(tmp_path / "bag", storage=storage)
    with running(Recording(path)) as port, Client(port) as client:
        state = client.state()
        (camera,) = state["cameras"]
        assert state["times"] == [0, 100, 200, 300] and state["start"] == str(STAMP)
        assert camera["topic"] == "/camera/image" and camera["labels"] == ["/seg/label"]
        assert camera["legends"][0]["classes"][0] == {
            "id": 0,
            "name": "road",
            "colour": [128, 64, 128],
            "thing": False,
        }
        for index in (2, 0, 3, 1):
            client.send(want={"index": index, "confidence": True})
            while (found := client.frame())[0]["stamp"] != str(STAMP + index * 10**8) or "confidence" not in found[1]:
                pass
            head, parts = found
            assert head["problem"] == ""
            np.testing.assert_array_equal(opened(parts["label"]), label_of(index))
            np.testing.assert_array_equal(opened(parts["confidence"]), confidence_of(index))
            assert np.abs(opened(parts["image"]).astype(int) - image_of(index)).max() <= 2
            client.until("at", index=index)


def test_a_label_of_16_bits_is_in_two_channels():
    ids = np.array([[0, 255, 256], [700, 65535, 1]], np.uint16)
    found = opened(png_of(ids)).astype(np.uint16)
    np.testing.assert_array_equal(found[..., 0] | found[..., 1] << 8, ids)


def test_a_damaged_part_is_named_and_left_out():
    class Broken:
        format, data = "jpeg", b"\xff\xd8\xff"

    data = packed(Content("front", 7, image=Broken()))
    head = json.loads(data[4 : 4 + int.from_bytes(data[:4], "little")])
    assert head["parts"] == {} and head["problem"].startswith("the image: ")


def test_nothing_is_read_while_nobody_looks(bag, monkeypatch):
    feed = Recording(bag)
    monkeypatch.setattr(feed, "_read", lambda tell: pytest.fail("read"))
    with running(feed) as port:
        assert ask(port, "/")[0] == 200
    assert feed._thread is None


def ask(port, path, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


def test_the_files_name_no_other_host(port):
    status, headers, page = ask(port, "/")
    assert status == 200 and "default-src 'none'" in headers["content-security-policy"]
    for name in ("page.js", "picture.js", "node.js", "page.css", "icon.svg"):
        status, _, content = ask(port, f"/files/{name}")
        assert status == 200
        page += content.replace(b"http://www.w3.org/2000/svg", b"")
    assert b"http://" not in page and b"https://" not in page
    assert ask(port, "/files/../app.py")[0] == ask(port, "/absent")[0] == 404


@pytest.mark.parametrize(
    ("headers", "path"),
    [
        ({}, "/live"),
        ({"Authorization": "Bearer wrong"}, "/live"),
        ({"Cookie": "m2f_token=wrong"}, "/live"),
        ({}, "/live?token=right"),
        ({}, "/live?token=wrong"),
    ],
)
def test_a_wrong_token(headers, path, bag):
    with running(Recording(bag), "right") as port:
        with pytest.raises(InvalidStatus) as error:
            Client(port, path, additional_headers=headers)
        assert error.value.response.status_code == 403
        assert ask(port, "/")[0] == ask(port, "/?token=wrong")[0] == ask(port, "/files/page.js")[0] == 401


def test_the_right_token(bag):
    with running(Recording(bag), "right") as port:
        status, headers, _ = ask(port, "/?token=right")
        assert (status, headers["location"]) == (303, "/")
        cookie = headers["set-cookie"].partition(";")[0]
        assert ask(port, "/", Cookie=cookie)[0] == 200
        for given in ({"Cookie": cookie}, {"Authorization": "Bearer right"}):
            with Client(port, additional_headers=given) as client:
                client.state()


def test_pages_of_other_sites_are_refused(port):
    # A name of another site that was made to point here, and a page of another site.
    assert ask(port, "/", Host="evil.example")[0] == 403
    for given in ({"origin": "http://evil.example"}, {"additional_headers": {"Host": "evil.example"}}):
        with pytest.raises(InvalidStatus):
            Client(port, **given)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"want": 1}', '{"want": {"index": -1}}', '{"set": {}}', "[" * 9999])
def test_a_message_that_cannot_be_read(text, port):
    with Client(port) as client:
        client.state()
        client.socket.send(text)
        assert client.until("fault")["reason"].startswith("a message that cannot be read")
        client.send(set={"name": "alpha", "value": 1})
        assert client.until("answer")["reason"] == "a recording has no parameters"


class Live(Feed):
    """A camera whose frames the test publishes."""

    live = True

    def __init__(self) -> None:
        self.number, self.wants, self.tell, self.encoded = 0, [], lambda news: None, []
        self.watched = threading.Condition()

    def state(self):
        return {"type": "state", "live": True, "title": "fake", "cameras": [], "note": "", "times": []}

    def watch(self, wants, tell):
        with self.watched:
            self.wants, self.tell = wants, tell
            self.watched.notify_all()

    def wait_for(self, pages: int) -> None:
        with self.watched:
            assert self.watched.wait_for(lambda: len(self.wants) == pages, 600)

    def cameras(self):
        return ["front"]

    def close(self) -> None:
        pass

    def publish(self) -> None:
        self.number += 1
        self.tell(None)

    def frame(self, camera, want, before):
        number = self.number
        if number in (0, before):
            return None
        self.encoded.append(number)
        return number, packed(Content(camera, number))


def test_a_slow_page_gets_the_newest_frame_and_slows_nobody():
    feed = Live()
    with running(feed) as port, Client(port) as slow, Client(port) as fast:
        feed.wait_for(2)
        for number in range(1, 8):
            feed.publish()
            # The fast page draws each frame; the slow one draws none.
            head, _ = fast.frame()
            assert head["stamp"] == str(number)
            fast.send(shown="front")
        first = [int(slow.frame()[0]["stamp"]) for _ in range(2)]
        assert first == sorted(first) and first[0] < 7
        slow.send(shown="front")
        if first[-1] < 7:
            assert slow.frame()[0]["stamp"] == "7"  # those in between are gone
        slow.send(set={"name": "a", "value": 1})
        assert slow.until("answer")


def test_nothing_is_encoded_while_all_pages_pause():
    feed = Live()
    with running(feed) as port, Client(port) as client:
        client.send(want={"paused": True})
        client.send(set={"name": "a", "value": 1})
        client.until("answer")
        feed.publish()
        client.send(set={"name": "a", "value": 1})
        client.until("answer")
        assert feed.encoded == [] and [want.paused for want in feed.wants] == [True]
        client.send(want={"paused": False})
        assert client.frame()[0]["stamp"] == "1"


def test_a_page_that_goes_away_is_forgotten():
    feed = Live()
    with running(feed) as port, Client(port) as stays:
        gone = Client(port)
        feed.wait_for(2)
        gone.socket.socket.close()  # without a word
        feed.wait_for(1)
        feed.publish()
        assert stays.frame()[0]["stamp"] == "1"
    assert feed.wants == []


def test_the_images_of_a_replay_come_from_its_drive(bag, tmp_path):
    result = write_bag(tmp_path / "result")
    (result / "replay.json").write_text(json.dumps({"settings": {"drive": str(bag)}}))
    with running(Recording(result)) as port, Client(port) as client:
        assert [camera["topic"] for camera in client.state()["cameras"]] == ["/camera/image"]
    (result / "replay.json").write_text(json.dumps({"settings": {"drive": "street:7"}}))
    feed = Recording(result)
    assert "street:7 are not in a rosbag2" in feed.note
    feed.close()


def test_what_is_no_recording(tmp_path):
    with pytest.raises(ConfigError, match="not a rosbag2"):
        open_recording(str(tmp_path))
    with pytest.raises(SourceError):
        open_recording(str(tmp_path / "absent"))


def test_a_port_in_use_is_one_line(bag):
    with listen("127.0.0.1", 0) as place:
        port = place.getsockname()[1]
        command = [sys.executable, "-m", "m2f_ros", "view", str(bag), "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=600)
    assert done.returncode == 2
    assert done.stderr == f"m2f: error: port {port} of 127.0.0.1 is in use: give another --port\n"


def test_other_machines_need_a_token():
    with pytest.raises(ConfigError, match="give --token too"):
        view(lambda: pytest.fail("opened"), "0.0.0.0", 0, "", print)


assert label_of(0).shape == SIZE
