"""The order of uploads, work and downloads of slots, as a device that notes it sees it, and what failures do to it."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m2f_ros.errors import ConfigError, FrameError
from m2f_ros.frame.frame import Ignored
from m2f_ros.pipeline import Frame, Resize
from m2f_ros.pipeline import slots as slots_module
from m2f_ros.pipeline.slots import MAX_KEYS, STEADY

sys.path.insert(0, str(Path(__file__).parent))
from stub import Network, frame, on_cpu, pipeline

SHORT = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def expected(image):
    return on_cpu().segment(image)


def read(device, ticket):
    """The result as its reader sees it."""
    result = ticket.result()
    found = {
        name: array.copy()
        for name, array in {**result.images, "shares": result.shares}.items()
        if isinstance(array, np.ndarray)
    }
    device.by_host("read", reads=[torch.from_numpy(a) for a in (result.label, result.overlay) if a is not None])
    ticket.release()
    return found


@settings(deadline=None, max_examples=60)
@given(data=st.data(), slots=st.integers(1, 3), graphs=st.booleans())
def test_no_two_operations_race_and_every_frame_gets_its_own_result(data, slots, graphs):
    pipe, device, _ = pipeline(slots, graphs)
    flying, seeds = [], itertools.count()
    for _ in range(data.draw(st.integers(1, 12))):
        if len(flying) < slots and (not flying or data.draw(st.booleans())):
            image = frame(next(seeds), height=data.draw(st.sampled_from([32, 64])))
            want = data.draw(st.sampled_from([{"label"}, {"label", "overlay"}, {"confidence", "label"}]))
            waits = device.waits
            flying.append((image, want, pipe.submit(image, want)))
            assert device.waits == waits  # the host waits for the device in result and release alone
        else:
            image, want, ticket = flying.pop(data.draw(st.integers(0, len(flying) - 1)))
            found, wanted = read(device, ticket), expected(image)
            assert found.keys() == want
            for name in {"label", "overlay"} & want:
                np.testing.assert_array_equal(found[name], getattr(wanted, name))
    for *_, ticket in flying:
        ticket.release()
    assert device.races() == []


def test_a_race_would_be_found():
    pipe, device, _ = pipeline(slots=1)
    ticket = pipe.submit(frame())
    pipe._free.put(pipe._slots[0])  # given back before its download is done
    pipe.submit(frame(1))
    ticket.release()
    assert device.races()


@pytest.mark.parametrize("graphs", [True, False])
def test_upload_work_and_download_of_three_frames_overlap(graphs):
    pipe, device, _ = pipeline(3, graphs)
    for _ in range(6):  # warm: all slots have memory and graphs
        pipe.submit(frame()).release()
    begin = len(device.ops)
    tickets = [pipe.submit(frame(i)) for i in range(3)]
    done = [
        {stream: [i for i, op in mine if op.stream == stream] for stream in ("upload", "compute", "download")}
        for mine in np.array_split(np.array(list(enumerate(device.ops))[begin:], dtype=object), 3)
    ]
    for n, op in enumerate(done):
        assert set(op["upload"]) <= device.ops[op["compute"][0]].after
        assert set(op["compute"]) <= device.ops[op["download"][0]].after
        for before in done[:n]:
            assert not set(before["compute"]) & device.ops[op["upload"][0]].after
            assert not set(before["download"]) & device.ops[op["compute"][0]].after
    for ticket in tickets:
        ticket.release()


def test_a_kind_is_captured_once_for_each_slot_from_its_second_frame_on():
    pipe, device, network = pipeline(slots=2)
    for i in range(10):
        np.testing.assert_array_equal(pipe.segment(frame(i)).label, expected(frame(i)).label)
    assert (pipe.counters, device.launches) == ({"captures": 2, "evictions": 0, "fallbacks": 0}, 8)
    # Before the first frame and before the capture: by then the backend may have dropped what it had prepared.
    assert network.built == [((32, 64), 1)] * 4


def test_a_network_with_shapes_that_depend_on_the_pixels_is_not_captured(monkeypatch):
    monkeypatch.setattr(Network, "captures", False, raising=False)
    pipe, device, _ = pipeline(slots=2)
    for i in range(6):
        np.testing.assert_array_equal(pipe.segment(frame(i)).label, expected(frame(i)).label)
    assert (pipe.counters, device.launches) == ({"captures": 0, "evictions": 0, "fallbacks": 0}, 0)


def test_a_change_of_size_captures_again_and_old_sizes_stay():
    pipe, *_ = pipeline(slots=1)
    for height in (32, 64, 32, 64, 32, 64):
        pipe.segment(frame(0, height))
    assert pipe.counters["captures"] == 2


def test_the_number_of_graphs_is_bounded():
    pipe, *_ = pipeline(slots=1)
    for width in range(32, 32 * (MAX_KEYS + 4), 32):
        for _ in range(2):
            assert pipe.segment(frame(0, 32, width)).label.shape == (32, width)
    assert len(pipe._slots[0]._kept) == MAX_KEYS
    # Once there were too many kinds, one is captured only when it has stayed for a while.
    assert pipe.counters == {"captures": MAX_KEYS, "evictions": 3, "fallbacks": 0}
    for _ in range(STEADY):
        pipe.segment(frame(0, 32, width))
    assert pipe.counters == {"captures": MAX_KEYS + 1, "evictions": 3, "fallbacks": 0}


def test_kinds_of_large_frames_make_way_sooner(monkeypatch):
    monkeypatch.setattr(slots_module, "KEPT_BYTES", 3 * 64 * 32 * 7 - 1)  # picture and overlay, and the label
    pipe, *_ = pipeline(slots=1)
    for width in (64, 96, 128, 160):
        assert pipe.segment(frame(0, 32, width)).label.shape == (32, width)
        kept = [memory.bytes for memory in pipe._slots[0]._kept.values()]
        assert kept[-1] == 32 * width * 7 and sum(kept[:-1]) <= 3 * 64 * 32 * 7 - 1
    assert pipe.counters["captures"] == 0


def test_stages_with_and_without_a_graph():
    pipe, *_ = pipeline(slots=1)
    assert list(pipe.segment(frame()).stages) == [
        *("upload", "preprocess", "network", "head", "overlay", "download"),
    ]
    assert list(pipe.segment(frame()).stages) == ["upload", "compute", "download"]


@pytest.mark.parametrize("error", [SHORT, RuntimeError("operation not permitted when stream is capturing")])
def test_a_capture_that_fails_is_said_once_and_work_goes_on_without(error, caplog):
    pipe, device, _ = pipeline(slots=2)
    device.capture_errors = [error]
    for i in range(6):
        np.testing.assert_array_equal(pipe.segment(frame(i)).label, expected(frame(i)).label)
    assert (pipe.counters["captures"], pipe.counters["fallbacks"], device.launches) == (0, 1, 0)
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "CUDA graphs are given up, which costs speed and nothing else"
    ]


def test_short_memory_frees_the_graphs_first():
    pipe, device, _ = pipeline(slots=2)
    for i in range(4):
        pipe.segment(frame(i))
    device.compute_errors = [SHORT]
    large = frame(0, 64)
    np.testing.assert_array_equal(pipe.segment(large).label, expected(large).label)
    assert all(memory.replay is None for slot in pipe._slots for memory in slot._kept.values())
    assert device.frees == 1


def test_memory_that_does_not_suffice_is_one_line_and_the_next_frame_works():
    pipe, device, _ = pipeline(slots=1)
    device.compute_errors = [SHORT, SHORT]
    with pytest.raises(FrameError) as caught:
        pipe.submit(frame())
    assert "too little memory for a frame of 64x32 at a network size of 64x32: lower max_pixels" in str(caught.value)
    np.testing.assert_array_equal(pipe.segment(frame()).label, expected(frame()).label)


def test_another_error_is_raised_as_it_is_and_the_next_frame_works():
    pipe, device, _ = pipeline(slots=1)
    device.compute_errors = [RuntimeError("shapes do not match")]
    with pytest.raises(RuntimeError, match="shapes do not match"):
        pipe.submit(frame())
    pipe.segment(frame())
    assert pipe.counters["fallbacks"] == 0


@pytest.mark.parametrize("as_context", [True, False])
def test_what_the_device_reports_comes_with_the_result_and_the_slot_is_free_again(as_context):
    pipe, device, _ = pipeline(slots=1)
    for _ in range(2):
        ticket = pipe.submit(frame())
        device.broken = RuntimeError("an illegal instruction was encountered")
        with pytest.raises(RuntimeError, match="illegal instruction"):
            if as_context:
                with ticket:
                    pass
            else:
                ticket.result()
        ticket.release()
        pipe.segment(frame(1))


def test_cameras_of_one_network_size_share_a_batch():
    pipe, _, network = pipeline(resize=Resize("fixed", height=32, width=64))
    cameras = [frame(1), frame(2, 64, 64), Frame(np.ascontiguousarray(frame(3).data[..., ::-1]), "bgr8")]
    for _ in range(5):
        with pipe.submit_batch(cameras) as results:
            for result, camera in zip(results, cameras, strict=True):
                alone = pipe.segment(camera)
                np.testing.assert_array_equal(result.label, alone.label)
                np.testing.assert_array_equal(result.overlay, alone.overlay)
    assert ((32, 64), 3) in network.built


def test_16_bits_and_a_graph_for_each_number_of_those_used():
    pipe, device, _ = pipeline(slots=1)
    eight = frame(4).data
    for bits in (12, 12, 12, 10, 10, 10, 16, 16, 12):
        deep = Frame(eight.astype(np.uint16) << (bits - 8), "rgb16", bits)
        found, wanted = pipe.segment(deep), expected(Frame(eight, "rgb8"))
        np.testing.assert_array_equal(found.label, wanted.label)
        np.testing.assert_array_equal(found.overlay, wanted.overlay)
    # With all 16 bits used, the high bytes alone go up: frames of rgb8.
    assert pipe.counters["captures"] == 3 and device.races() == []


def test_a_batch_of_several_network_sizes():
    pipe, *_ = pipeline(slots=1)
    with pytest.raises(FrameError, match="64x32 gives 64x32, 64x64 gives 64x64; take resize mode 'fixed'"):
        pipe.submit_batch([frame(), frame(0, 64)])
    with pytest.raises(FrameError, match="no frames"):
        pipe.submit_batch([])
    pipe.segment(frame())


def test_an_output_that_there_is_not():
    with pytest.raises(ConfigError, match="no output 'depth'; take some of color, confidence, label"):
        pipeline()[0].submit(frame(), {"label", "depth"})


def test_closing_waits_for_the_device_and_frees_graphs_and_memory():
    pipe, device, _ = pipeline(slots=2)
    for i in range(4):
        pipe.segment(frame(i))
    device.broken = RuntimeError("an illegal instruction was encountered")
    waits = device.waits
    pipe.close()
    assert (device.waits, device.frees) == (waits + 2, 1)
    assert all(not slot._kept and slot._now is None for slot in pipe._slots)
    pipe.close()
    assert device.frees == 1


def test_a_graph_ignores_the_pixels_of_its_own_camera():
    pipe, _, _ = pipeline(slots=1)
    left, right = np.zeros((2, 32, 64), bool)
    left[:, :20], right[:, 40:] = True, True
    masks = [Ignored(left), Ignored(right), None]
    for seed in range(4):  # the first frame of each is not captured, the later ones are graphs
        for ignored in masks:
            image = frame(seed)
            found = pipe.segment(Frame(image.data, image.encoding, ignored=ignored), {"label", "overlay"})
            plain = expected(image)
            out = np.zeros((32, 64), bool) if ignored is None else ignored.mask
            assert (found.label[out] == 255).all()
            np.testing.assert_array_equal(found.label[~out], plain.label[~out])
            np.testing.assert_array_equal(found.overlay[~out], plain.overlay[~out])
    assert pipe.counters["captures"] == 3
