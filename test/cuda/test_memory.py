"""Memory of the device and of the process stays as it is, however long a stream lasts."""

from pathlib import Path

import pytest
import torch

from m2f_ros.pipeline import slots
from m2f_ros.pipeline.slots import MAX_KEYS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
FRAMES = 2000
MIB = 1 << 20


def resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def used() -> dict[str, int]:
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    return {
        "allocated": torch.cuda.memory_allocated(),
        "reserved": torch.cuda.memory_reserved(),
        "device": total - free,
        "resident": resident(),
    }


def stream(pipe, kinds, count) -> None:
    """`count` frames, two in flight, of kinds (frame, want) in turns."""
    flying = []
    for i in range(count):
        if len(flying) == 2:
            with flying.pop(0):
                pass
        flying.append(pipe.submit(*kinds[i % len(kinds)]))
    for ticket in flying:
        with ticket:
            pass


def grown(before: dict[str, int], after: dict[str, int]) -> dict[str, float]:
    return {name: (after[name] - before[name]) / MIB for name in before}


def test_memory_is_flat_over_2000_frames(pipeline, street) -> None:
    pipe = pipeline()
    wants = [{"label"}, {"label", "overlay"}, {"label", "overlay", "confidence"}]
    frames = [street(1, *size)[0] for size in ((160, 256), (352, 480))]
    kinds = [(frames[0], wants[0]), (frames[1], wants[1]), (frames[0], wants[2]), (frames[1], wants[0])]
    assert len(kinds) <= MAX_KEYS  # each is captured once a slot
    stream(pipe, kinds, 200)
    before, captures = used(), pipe.counters["captures"]
    stream(pipe, kinds, FRAMES)
    growth = grown(before, used())
    assert pipe.counters["captures"] == captures
    assert growth["allocated"] <= 1 and growth["reserved"] <= 2 and growth["device"] <= 32, growth
    assert growth["resident"] <= 64, growth


def test_memory_is_bounded_where_kinds_keep_changing(pipeline, street, monkeypatch) -> None:
    monkeypatch.setattr(slots, "STEADY", 1)
    pipe = pipeline()
    frames = [street(1, 96 + 32 * i, 160)[0] for i in range(MAX_KEYS + 3)]
    kinds = [(frame, {"label"}) for frame in frames for _ in range(4)]  # each is captured, and makes way
    stream(pipe, kinds, 2 * len(kinds))
    before, captures = used(), pipe.counters["captures"]
    stream(pipe, kinds, 6 * len(kinds))
    growth = grown(before, used())
    assert pipe.counters["captures"] > captures
    assert growth["allocated"] <= 1 and growth["reserved"] <= 32 and growth["device"] <= 64, growth


def unused() -> int:
    """Bytes of torch's own memory that nothing takes, but those of graphs."""
    own = [segment for segment in torch.cuda.memory_snapshot() if tuple(segment["segment_pool_id"]) == (0, 0)]
    return sum(segment["total_size"] - segment["allocated_size"] for segment in own)


def test_the_first_frame_s_memory_goes_back(pipeline, street) -> None:
    pipe = pipeline(slots=1)
    (frame,) = street(1, 1024, 2048)
    torch.cuda.empty_cache()
    before = unused()
    pipe.segment(frame, {"label", "overlay"})
    first = unused() - before
    pipe.segment(frame, {"label", "overlay"})
    assert pipe.counters["captures"] == 1
    assert unused() - before < first / 4
