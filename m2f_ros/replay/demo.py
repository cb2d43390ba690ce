"""The demo: a camera, the node and a recorder as three processes over real DDS, and a summary of the results."""

from __future__ import annotations

import json
import os
import platform
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, SimpleQueue

import numpy as np
from tqdm import tqdm

import m2f_ros
from m2f_ros import signals
from m2f_ros.bags.writer import written_files
from m2f_ros.errors import ConfigError, OutputError
from m2f_ros.frame.bit_depth import AUTO
from m2f_ros.frame.outputs import SPATIAL_NAMES
from m2f_ros.processes import fastdds
from m2f_ros.processes.children import PARTIAL, Child, ProcessError, environment, executable, ros_arguments
from m2f_ros.replay.demo_space import CLOUDS, DEPTH, SPACE_TOPICS, describe_space, extrinsics, space_options
from m2f_ros.replay.digest import Digest, Topics, digest
from m2f_ros.replay.space_pictures import write_pictures
from m2f_ros.results import Results
from m2f_ros.sources.open import ENDLESS_FRAMES, open_source

NODE, PLAYER, RECORDER = "segmentation_node", "camera_player", "recorder"
TOPICS = Topics(
    image="/camera/image",
    ground_truth="/camera/ground_truth",
    label="/segmentation_node/label",
    overlay="/segmentation_node/overlay",
    color="/segmentation_node/color",
    stats="/segmentation_node/stats",
    legend="/segmentation_node/legend",
)
SIGNAL = "signal"  # name of the sender of signal events
PATIENCE = 30.0  # seconds that the last outputs may take


@dataclass(frozen=True)
class Options:
    """Settings of the demo.

    Attributes:
        source, labels, taxonomy, topic, rate, frames, bit_depth: see `open_source`; 100 frames of an endless source.
        model, device, precision: see the node's parameters.
        out: folder of the results.
        timeout: seconds without progress before an error.
        outputs: outputs in space, of a source that has what they need.
    """

    source: str = "street"
    labels: str | None = None
    taxonomy: str | None = None
    topic: str | None = None
    rate: float | None = None
    frames: int | None = None
    bit_depth: int = AUTO
    model: str = "street"
    device: str = "auto"
    precision: str = "auto"
    out: Path = Path("out/demo")
    timeout: float = 120.0
    outputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if unknown := [name for name in self.outputs if name not in SPATIAL_NAMES]:
            raise ConfigError(f"outputs: there is no {', '.join(unknown)}; take some of {', '.join(SPATIAL_NAMES)}")
        if "detections" in self.outputs and find_spec("vision_msgs") is None:
            raise ConfigError("outputs: detections need vision_msgs, which a ROS 2 distribution has: leave them out")


def run(options: Options) -> dict:
    """Play the source through the node; return the summary.

    Writes into the folder `out`, in place of the results of an earlier run: summary.json, overlay.mp4,
    overlay.png, labels/*.png, bag/ (rosbag2, MCAP), logs/*.log, and NAME.png of each output in space. Other files there
    stay.

    Raises SourceError or TaxonomyError for an unreadable source, OutputError if `out` holds other files or an input,
    CheckpointError for an invalid model, ProcessError if a process fails.
    """
    simulated = options.source == "street" or options.source.startswith("street:")
    inputs = [options.model, options.labels, options.taxonomy, None if simulated else options.source]
    results = Results(options.out, "m2f demo", inputs)
    source = open_source(
        options.source,
        labels=options.labels,
        taxonomy=options.taxonomy,
        rate=options.rate,
        frames=options.frames,
        topic=options.topic,
        bit_depth=options.bit_depth,
        space=space_options(options.outputs),
    )
    frames = options.frames or (ENDLESS_FRAMES if source.length is None else 0)
    first = next(iter(source))
    size = first.image.shape[:2]
    placed = extrinsics(first, options.outputs)
    _check_model(options.model)
    bag = options.out / "bag"
    with results:
        results.clear()
        if bag.exists():  # rosbag2 creates this folder itself
            raise OutputError(f"{bag}: holds files that m2f demo did not make: choose another --out")
        results.claim(f"bag/{file}" for file in written_files("bag", "mcap"))
        logs = {name: results.new(f"logs/{name}.log") for name in (NODE, PLAYER, RECORDER)}
        with Stage(options, frames, size, placed, logs) as stage:
            sent = stage.play(frames or source.length)
            missing, transport = stage.missing, stage.transport
        with tqdm(desc="writing", unit="label", leave=False) as bar:
            result = digest(bag, TOPICS, results.new, source.taxonomy, bar.update)
        if not result.segmented:
            raise ProcessError(f"no label came for any of the {sent} frames: see {options.out / 'logs'}")
        summary = summarise(options, sent, result, transport) | ({"missing": missing} if missing else {})
        if options.outputs:
            topics = {name: SPACE_TOPICS[name] for name in options.outputs}
            counts = write_pictures(bag, topics, TOPICS.overlay, result.classes, results.new)
            if absent := [name for name, count in counts.items() if not count]:
                raise ProcessError(f"no {', '.join(absent)} came: see {options.out / 'logs' / NODE}.log")
            summary["outputs"] = counts
        results.new("summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary


def _check_model(name: str) -> None:
    """Raise CheckpointError for an invalid model, before the results of an earlier run are removed."""
    from m2f_ros.model import read_config
    from m2f_ros.model.checkpoint import find
    from m2f_ros.pipeline.exported import Export, is_export

    if is_export(name):
        Export.open(name)
    else:
        read_config(find(name))


def summarise(options: Options, sent: int, result: Digest, transport: str) -> dict:
    """Return the content of summary.json.

    sent: number of frames that the player sent. transport: QoS and Fast DDS profile, for frames that never arrived: all
    that the node had not received at its last result.
    """
    lost = max(0, sent - result.received)
    p50, p99 = np.percentile(result.latency_ms, (50, 99)).round(1).tolist()
    return {
        "source": options.source,
        "model": options.model,
        "device": _device(options.device),
        "frames_sent": sent,
        "frames_received": result.received,
        "frames_segmented": result.segmented,
        "frames_dropped": result.dropped,
        "frames_never_arrived": lost,
        **({"transport": transport} if lost else {}),
        "fps": None if result.fps is None else round(result.fps, 2),
        "latency_ms": {"p50": p50, "p99": p99},
        "miou": None if result.miou is None else round(result.miou, 4),
        "miou_over": {"frames": result.scored, "of": result.truth, "classes": result.averaged},
        "versions": _versions(),
    }


def describe(summary: dict, out: Path) -> str:
    """Return the summary as a few lines of text."""
    latency = summary["latency_ms"]
    over = summary["miou_over"]
    miou = "no ground truth"
    if over["of"]:
        score = "of nothing" if summary["miou"] is None else f"{summary['miou']:.3f}"
        miou = f"mIoU {score} over {over['frames']} of {over['of']} frames with ground truth"
        miou += f", {over['classes']}" if over["classes"] else ""
    return (
        f"{summary['source']} by {summary['model']} on {summary['device']}\n"
        f"{summary['frames_segmented']} of {summary['frames_sent']} frames segmented, "
        f"{summary['frames_dropped']} dropped for a newer one, {summary['frames_never_arrived']} never arrived, "
        f"{summary['fps']:.1f} a second\n"
        f"latency {latency['p50']:.0f} ms (median), {latency['p99']:.0f} ms (p99); {miou}\n"
        + (
            f"DDS lost the frames that never arrived: {summary['transport']} (docs/node.md, Shared memory)\n"
            if "transport" in summary
            else ""
        )
        + describe_space(summary.get("outputs", {}), out)
        + f"look at {out / 'overlay.mp4'}"
        + (f"\nm2f: error: {summary['source']}: {summary['missing']}" if "missing" in summary else "")
    )


class Stage:
    """Runs the three processes, and stops them at the end of the `with` block.

    In the block SIGINT raises KeyboardInterrupt, and SIGTERM and SIGHUP raise SystemExit, once all processes are known.
    """

    def __init__(
        self,
        options: Options,
        frames: int,
        size: tuple[int, int],
        placed: Mapping[str, list[float]],
        logs: Mapping[str, Path],
    ) -> None:
        """frames: number of frames to play; 0 for all. size: (height, width) of the first. placed: parameters of the
        node for the poses of camera and lidar. logs: process -> file."""
        self._timeout = options.timeout
        self._logs = logs
        self._commands = _commands(options, frames, size, placed)
        self._env = environment()
        self._events: SimpleQueue[tuple[str, dict | None]] = SimpleQueue()
        self._children: dict[str, Child] = {}
        self._newest: dict[tuple[str, str], dict] = {}  # (process, kind) -> event
        self._ended: set[str] = set()

    def play(self, total: int | None) -> int:
        """Play all frames, `total` of them if known. Return the number of sent frames."""
        for name, command in self._commands.items():
            self._children[name] = Child(name, command, self._env, self._logs[name], self._events)
        with tqdm(desc="reading ahead", total=total, unit="frame", leave=False) as bar:
            self._wait(
                lambda: {(PLAYER, "ready"), (RECORDER, "ready")} <= self._newest.keys(),
                self._not_ready,
                lambda: _show(bar, self._number(PLAYER, "prepared")),
            )
        self._children[PLAYER].tell("play")
        with tqdm(desc="streaming", total=total, unit="frame") as bar:
            self._wait(
                lambda: PLAYER in self._ended,
                lambda: f"{PLAYER} sent nothing for {self._timeout:g} s",
                lambda: _show(bar, self._number(PLAYER, "sent"), self._number(RECORDER, "label")),
            )
            end = self._newest[PLAYER, "end"]
            self._children[RECORDER].tell(str(end["last_stamp"]))
            self._wait(
                lambda: RECORDER in self._ended,
                lambda: f"{RECORDER} did not end",
                lambda: _show(bar, end["sent"], self._number(RECORDER, "label")),
            )
        return end["sent"]

    def __enter__(self) -> Stage:
        self._handlers = signals.listen(self._signal)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for child in self._children.values():
            child.interrupt()
        codes = {name: child.wait() for name, child in self._children.items()}
        signals.restore(self._handlers)
        if kind is None and codes[NODE]:
            raise self._died(NODE, codes[NODE])

    def _signal(self, number: int, _frame: object) -> None:
        # SimpleQueue alone, of all queues, is safe in a signal handler.
        self._events.put((SIGNAL, {"number": number}))
        if number == signal.SIGHUP:
            signals.leave_terminal()

    def _wait(self, done: Callable[[], bool], stuck: Callable[[], str], show: Callable[[], None]) -> None:
        """Handle events until `done`. Raises ProcessError, with the text of `stuck`, after too long without any."""
        while not done():
            try:
                name, event = self._events.get(timeout=self._timeout)
            except Empty:
                raise ProcessError(f"{stuck()}; see {self._logs[NODE].parent}") from None
            if name == SIGNAL and event is not None:
                raise KeyboardInterrupt if event["number"] == signal.SIGINT else SystemExit(128 + event["number"])
            if event is not None:
                self._newest[name, event["event"]] = event
            else:
                self._ended.add(name)
                self._check_end(name)
            show()

    def _check_end(self, name: str) -> None:
        code = self._children[name].wait()
        # The player ends by itself after its last frame, then the recorder; the node never does.
        in_time = name != NODE and (PLAYER, "end") in self._newest
        if code not in (0, PARTIAL) or not in_time:
            raise self._died(name, code)

    def _died(self, name: str, code: int) -> ProcessError:
        return ProcessError(f"{name} ended with exit status {code}: {self._children[name].complaint()}")

    def _not_ready(self) -> str:
        if (RECORDER, "ready") not in self._newest:
            return (
                f"{NODE} published no {TOPICS.legend} within {self._timeout:g} s: "
                "a model that is still being fetched needs a longer --timeout"
            )
        return f"{PLAYER} was not ready within {self._timeout:g} s"

    @property
    def missing(self) -> str:
        """Reason why frames of the source were not played, or ""."""
        return self._newest.get((PLAYER, "missing"), {"why": ""})["why"]

    @property
    def transport(self) -> str:
        """QoS of the images, as the player found it at its end, and the Fast DDS profile."""
        return f"{self._newest[PLAYER, 'end']['qos']}; {fastdds.in_force(self._env, Path.cwd())}"

    def _number(self, name: str, kind: str) -> int:
        return self._newest.get((name, kind), {"n": 0})["n"]


def _commands(
    options: Options, frames: int, size: tuple[int, int], placed: Mapping[str, list[float]]
) -> dict[str, list[str]]:
    height, width = size
    node = {
        "model": options.model,
        "device": options.device,
        "precision": options.precision,
        # Prepared in advance, since the conversion takes seconds, in which the first images would be dropped.
        "image_sizes": [f"{width}x{height}"],
        # Kept for the recorder, which must not lose a message if it misses a fragment.
        "output_depth": 4,
        # The player is reliable, and waits for this very subscription: with "auto" the node may subscribe anew then.
        "reliability": "reliable",
        # The player keeps as many. A frame that the node takes late is dropped for a newer one, and counted.
        "depth": 10,
        **placed,
    }
    node_remaps = {"~/image": TOPICS.image}
    recorder = {"bag": str(options.out / "bag"), "patience": PATIENCE}
    player = {
        "source": options.source,
        "labels": options.labels or "",
        "taxonomy": options.taxonomy or "",
        "topic": options.topic or "",
        "rate": float(options.rate or 0.0),
        "frames": frames,
        "bit_depth": options.bit_depth,
        "subscribers": 2,  # node and recorder
        "timeout": options.timeout,
        "wait_for_line": True,
    }
    recorder_remaps = {name: topic for name, topic in vars(TOPICS).items() if not topic.startswith("/camera/")}
    camera = {"__ns": "/camera"}
    if options.outputs:
        space = space_options(options.outputs)
        node_remaps |= {"~/depth": DEPTH, "~/cloud": CLOUDS}
        recorder["outputs"] = list(options.outputs)
        recorder_remaps |= {name: SPACE_TOPICS[name] for name in options.outputs}
        player |= {"space": space.asked, "space_subscribers": 1}
    return {
        NODE: [str(executable(NODE)), *ros_arguments(node, node_remaps)],
        RECORDER: [str(executable(RECORDER)), *ros_arguments(recorder, {**camera, **recorder_remaps})],
        PLAYER: [str(executable(PLAYER)), *ros_arguments(player, camera)],
    }


def _show(bar: tqdm, count: int, labels: int | None = None) -> None:
    if labels is not None:
        bar.set_postfix_str(f"{labels} segmented", refresh=False)
    bar.update(count - bar.n)


def _device(name: str) -> str:
    """Return a description of the device that the node chooses for this name."""
    from m2f_ros.pipeline.device import choose_device, hardware_name

    device = choose_device(name)
    cores = "" if device.type == "cuda" else f", {os.cpu_count()} cores"
    return f"{device.type}: {hardware_name(device)}{cores}"


def _versions() -> dict[str, str]:
    try:
        ros = f"rclpy {version('ros-rclpy')}"
    except PackageNotFoundError:
        ros = os.environ.get("ROS_DISTRO", "unknown")
    return {
        "m2f_ros": m2f_ros.__version__,
        "python": platform.python_version(),
        "torch": version("torch"),
        "numpy": np.__version__,
        "ros": ros,
    }
