"""Videos and folders of images that are made to open something else, or to take all memory."""

import os
import socket
import struct
import threading
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from m2f_ros.errors import SourceError
from m2f_ros.sources.files import _Clock
from m2f_ros.sources.open import open_source


def video(path, codec="mpeg4", size=(64, 48), frames=5, times=None):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = *size, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), 40 * i, np.uint8), format="bgr24")
            frame.pts, frame.time_base = (times or range(0, 100 * frames, 100))[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


PLAYLISTS = {
    "x.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n",
    "x.ffconcat": "ffconcat version 1.0\nfile '{}'\n",
    "x.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\na=control:{}\n",
    "x.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT1S"><Period><AdaptationSet mimeType="video/mp4"><Representation id="0" '
    'bandwidth="1"><BaseURL>{}</BaseURL></Representation></AdaptationSet></Period></MPD>',
    "x.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n",
    "x.rm": "rtsp://{}\n",
    "x.ram": "{}\n",
    "x.txt": "{}\n",
    "x.idx": "# VobSub index file, v7\nid: en, index: 0\ntimestamp: 00:00:00:000, filepos: 0\n",
    "x.ass": "[Script Info]\n[Events]\nDialogue: 0,0:00:00.00,0:00:01.00,x,,0,0,0,,{}\n",
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_playlist_opens_nothing(tmp_path, name):
    other = video(tmp_path / "other.ts")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        for target in (other, other.name, f"http://127.0.0.1:{server.getsockname()[1]}/x.ts"):
            (tmp_path / name).write_text(PLAYLISTS[name].format(target))
            with pytest.raises(SourceError, match="not a video that FFmpeg can read"):
                open_source(str(tmp_path / name))
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize("name", ["concat:other.mp4", "http:x.mp4", "frame%d.mp4", "a:b.mp4", "data:x.mp4"])
def test_a_name_is_a_file_whatever_it_looks_like(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    video(tmp_path / "x.mp4").rename(tmp_path / name)
    assert len([*open_source(name)]) == 5


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.touch()])
def test_what_is_no_video(tmp_path, make):
    make(tmp_path / "x.mp4")
    with pytest.raises(SourceError, match=r"cannot be read: it is no file|not a video"):
        open_source(str(tmp_path / "x.mp4"))


def test_a_video_of_a_size_that_no_camera_has(tmp_path):
    data = bytearray(video(tmp_path / "x.avi", "mjpeg").read_bytes())
    at = -1
    while (at := data.find(b"\xff\xc0\0\x11\x08", at + 1)) >= 0:
        data[at + 5 : at + 9] = struct.pack(">HH", 65500, 65500)
    (tmp_path / "y.avi").write_bytes(data)
    with pytest.raises(SourceError):
        [*open_source(str(tmp_path / "y.avi"))]


def test_times_that_jump():
    said = []
    clock = _Clock(said.append, 10.0, Fraction(1, 1000))
    stamps = [clock.stamp(time) for time in (0, 100, 1 << 62, (1 << 62) + 100, -(1 << 63), 5)]
    assert stamps == [i * 10**8 for i in range(6)] and said


def test_a_folder_of_pipes_devices_and_loops(tmp_path):
    Image.new("RGB", (8, 6)).save(tmp_path / "c.png")
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("/dev/zero")
    (tmp_path / "d.png").symlink_to("d.png")
    (tmp_path / "e.png").mkdir()
    source = open_source(str(tmp_path))
    assert [sample.name for sample in source] == ["c"]
    assert source.problem
    threads = [thread.name for thread in threading.enumerate()]
    assert not any("read-ahead" in name for name in threads)
