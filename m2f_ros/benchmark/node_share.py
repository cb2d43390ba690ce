"""What the node adds to a frame beyond the pipeline, as `m2f bench-node` found it, and its JSON. Knows no ROS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from m2f_ros.benchmark.result import Run
from m2f_ros.benchmark.stats import Spread, median, spread

FILE = "node.json"  # how the names of the files end
PACKAGES = ("python", "numpy")  # that have a part in it


@dataclass(frozen=True)
class NodeShare(Run):
    """A run of `m2f bench-node`.

    frame_size: (height, width). outputs: topics that were listened to, raw. rate_hz: at most.
    time_ms: CPU time of the node's process for a frame. threads_ms: median of each of its threads.
    """

    frame_size: tuple[int, int]
    encoding: str
    rate_hz: float
    outputs: list[str]
    time_ms: Spread
    threads_ms: dict[str, float]


def node_share(
    times_ms: Sequence[float],
    threads_ms: Mapping[str, Sequence[float]],
    *,
    frame_size: tuple[int, int],
    encoding: str,
    rate_hz: float,
    outputs: Sequence[str],
    versions: Mapping[str, str],
) -> NodeShare:
    """Of what m2f_ros.node.benchmark.measure gives, on this machine now. Threads that take nothing are left out."""
    import torch

    from m2f_ros.benchmark import machine

    run = machine.run_fields(torch.device("cpu"))
    run["versions"] = {name: run["versions"][name] for name in PACKAGES} | dict(versions)
    medians = {name: median(values) for name, values in threads_ms.items()}
    return NodeShare(
        **run,
        frame_size=frame_size,
        encoding=encoding,
        rate_hz=rate_hz,
        outputs=list(outputs),
        time_ms=spread(times_ms),
        threads_ms={name: value for name, value in medians.items() if value >= 0.01},
    )


def describe(share: NodeShare) -> str:
    """In a few lines, for the terminal."""
    time = share.time_ms
    height, width = share.frame_size
    threads = ", ".join(f"{name} {value:.2f}" for name, value in share.threads_ms.items())
    return (
        f"{time.median:.2f} ms of CPU time a frame of {width}x{height} beyond the pipeline (median of {time.count}; "
        f"quartiles {time.quartile1:.2f} to {time.quartile3:.2f})\nof that in its threads: {threads}"
    )
