"""Settings and results of the benchmarks, and their JSON. Needs no torch.

The name of a figure ends in its unit. A figure that was not measured is None, null or absent in the JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from m2f_ros.documents import read_json
from m2f_ros.errors import ConfigError, DocumentError, say_once
from m2f_ros.files import has_keys, replace_own

SCHEMA = 1  # version of the JSON
STRIDE = 32  # m2f_ros.model.STRIDE; importing that would import torch
OTHERS = ("hf", "compiled", "openvino", "onnxruntime", "library")
BACKENDS = ("eager", "compile", "openvino")
PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "fp8")
OWN_PRECISIONS = (*PRECISIONS, "int8")  # int8: a quantised form, which others do not have
Size = tuple[int, int]  # (height, width)


@dataclass(frozen=True)
class Settings:
    """One run of `m2f bench`, checked before anything is loaded. Raises ConfigError for an impossible value."""

    # A size of Swin with Cityscapes' classes; a model's name, folder or hub id; or "random:" and a network.
    model: str = "swin-tiny"
    size: Size = (256, 512)  # of the network's input, multiples of STRIDE
    frame_size: Size | None = None  # of the frames, which are drawn at it or scaled to it; None: size
    frames: str = "street"  # a source as `open_source` takes it
    different_frames: int = 8  # taken from the source and repeated; more where the last batch would not be full
    # Names of OTHERS; empty measures this pipeline alone. None: hf, and library for networks of other libraries.
    against: tuple[str, ...] | None = None
    backends: tuple[str, ...] = ("eager",)  # of BACKENDS; each is measured
    exports: tuple[str, ...] = ()  # folders of `m2f export` of the same model at `size`; each is measured
    device: str = "auto"  # auto, cpu, cuda, cuda:1, …
    precision: str | None = None  # of PRECISIONS, for both sides (but see theirs.make); None: fp16 on CUDA, else fp32
    more_precisions: tuple[str, ...] = ()  # of OWN_PRECISIONS; each is a further contestant of every backend of ours
    batch: int = 1  # frames at once, as from several cameras
    threads: int | None = None  # of the CPU; None: one for each core that this process may use
    warmup: int = 2  # rounds before those that count
    rounds: int = 20  # each gives one time of every contestant
    rate: float | None = None  # batches that arrive each second; None: 30 on CUDA, on a CPU 4/5 of our throughput
    seconds: float = 10.0  # for how long batches arrive; 0 leaves the latency out

    def __post_init__(self) -> None:
        if any(side < STRIDE or side % STRIDE for side in self.size):
            near = shape([max(STRIDE, round(side / STRIDE) * STRIDE) for side in self.size])
            problem = f"height and width of the network's input must be multiples of {STRIDE}; take {near}"
            raise ConfigError(f"--size {shape(self.size)}: {problem}")
        if self.frame_size and not all(1 <= side <= 16384 for side in self.frame_size):
            raise ConfigError(f"--frame-size {shape(self.frame_size)}: sides must be 1 to 16384")
        precisions = () if self.precision is None else (self.precision, *self.more_precisions)
        if self.precision == "int8":
            raise ConfigError("--precision int8: give the precision of the others before it: --precision fp32,int8")
        names = {"against": (self.against or (), OTHERS), "backend": (self.backends, BACKENDS)}
        for option, (values, known) in (names | {"precision": (precisions, OWN_PRECISIONS)}).items():
            unknown = [value for value in values if value not in known]
            if unknown or (option == "backend" and not values):
                problem = f" {unknown[0]}: not known" if unknown else ": names none"
                raise ConfigError(f"--{option}{problem}; take some of {', '.join(known)}")
            if len(set(values)) != len(values):
                raise ConfigError(f"--{option} {','.join(values)}: names one of them twice")
        if len(set(self.exports)) != len(self.exports):
            raise ConfigError(f"--exports {','.join(self.exports)}: names one of them twice")
        for option in ("batch", "threads", "warmup", "rounds", "different_frames"):
            value = getattr(self, option)
            if value is not None and value < 1:
                raise ConfigError(f"--{option.replace('_', '-')} {value}: must be at least 1")
        if self.rate is not None and not 0 < self.rate <= 1000:
            raise ConfigError(f"--rate {self.rate:g}: must be above 0 and at most 1000 a second")
        if not 0 <= self.seconds <= 3600:
            raise ConfigError(f"--seconds {self.seconds:g}: must be 0 to 3600")


def shape(size: Sequence[int]) -> str:
    """(256, 512) -> "256x512"."""
    return "x".join(map(str, size))


def parse_size(text: str, option: str) -> Size:
    """ "256x512", HEIGHTxWIDTH, -> (256, 512). ConfigError for anything else."""
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if not found:
        raise ConfigError(f"{option} {text!r}: must be HEIGHTxWIDTH in pixels, such as 256x512")
    return int(found[1]), int(found[2])


def parse_names(text: str) -> tuple[str, ...]:
    """ "hf,compiled" -> ("hf", "compiled"); "none" and "" -> ()."""
    return () if text == "none" else tuple(name.strip() for name in text.split(",") if name.strip())


@dataclass(frozen=True)
class Spread:
    """Distribution of some values. Percentiles are interpolated linearly between neighbours."""

    count: int
    minimum: float
    quartile1: float
    median: float
    quartile3: float
    maximum: float


@dataclass(frozen=True)
class Machine:
    """The machine of a run."""

    system: str
    cpu: str
    cores: int  # that this process may use
    cores_in_all: int
    memory_gib: float
    gpu: str | None = None
    gpu_memory_gib: float | None = None
    gpu_capability: str | None = None


@dataclass(frozen=True, kw_only=True)
class Run:
    """The fields that all results begin with; `machine.run_fields` makes them."""

    schema: int
    date: str  # UTC, in ISO 8601
    command: str
    commit: str | None = None  # of the package's checkout; None without one
    dirty: bool | None = None  # True where files differ from the commit
    machine: Machine
    versions: dict[str, str]
    as_read: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)  # the JSON, with unknown fields


@dataclass(frozen=True)
class Input:
    """The frames, the same for all contestants."""

    source: str
    count: int
    frame_size: Size
    network_size: Size
    sha256: str  # of the frames' bytes, one after the other


@dataclass(frozen=True)
class Weights:
    """The weights, the same for all contestants."""

    origin: str  # in words
    random: bool  # True where they were not trained
    parameters: int
    labels: int


@dataclass(frozen=True)
class Work:
    """Operations and memory traffic of one batch: matrix products, convolutions, attention and weighted sums alone."""

    network_gflop: float  # of this package's network in plain fp32 torch code; a multiply-add is two operations
    head_gflop: float
    gigabytes: float  # operands and results of these operations, each once, in the run's precision
    hf_network_gflop: float | None = None  # of the library's code


@dataclass(frozen=True)
class Roofline:
    """Rates of the device, measured in the same run, and the time that one batch takes at least."""

    gemm_tflop_per_s: float  # of a matrix product in the run's precision
    copy_gb_per_s: float  # read and written, of a copy in the device's memory
    bound_ms: float  # the longer of operations over gemm_tflop_per_s and bytes over copy_gb_per_s


@dataclass(frozen=True)
class AtRate:
    """Latency, from arrival to the result on the host, of frames that arrive at a fixed rate; the newest waits."""

    rate_hz: float
    arrived: int
    done: int
    dropped: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    jitter_ms: float  # standard deviation


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One way to segment the frames."""

    name: str  # unique in the result
    side: str  # "ours" or "theirs"
    what: str  # in words
    precision: str | None = None  # of Settings.more_precisions; None: the run's
    setup_s: float  # load, conversion, compilation and the first frame
    time_ms: Spread  # one batch from host memory to labels in host memory, nothing else in flight
    throughput_fps: float  # in steady state, with as many frames in flight as the contestant allows
    stages_ms: dict[str, float]  # median of each stage of the contestant's own code
    at_rate: AtRate | None = None
    memory_mb: float | None = None  # added while it runs: peak on the device, on a CPU of resident memory
    agreement: float  # part of the pixels, over all different frames, with the label of the fp32 reference
    disagreement_margin: float | None = None  # largest lead of the reference's best score where labels differ
    # Largest difference from the reference, of pixel logits, too; None where one is not finite.
    class_logit_error: float | None = None
    mask_logit_error: float | None = None
    roofline_share: float  # Roofline.bound_ms over the time of a batch in steady state
    fallbacks: int | None = None  # 1 where CUDA graphs were given up; None of the others' side


@dataclass(frozen=True)
class Comparison:
    """Two contestants."""

    ours: str
    theirs: str  # or another precision of ours
    ratio: float  # median time of theirs over that of ours
    paired_ratio: Spread  # the ratio of each round
    throughput_ratio: float  # frames a second of ours over those of theirs
    agreement: float  # of ours with the fp32 reference


@dataclass(frozen=True)
class HostTime:
    """Time of the Python thread for one frame outside the device's work, with a network that answers at once."""

    frame_size: Size
    network_size: Size
    time_ms: Spread


@dataclass(frozen=True, kw_only=True)
class Result(Run):
    """A run of `m2f bench`."""

    settings: Settings  # as asked for
    device: str  # device, precision and threads as taken
    precision: str
    threads: int
    input: Input
    weights: Weights
    reference: str  # network that the agreement is with, in words
    reference_labels: int  # classes that occur in its labels
    work: Work
    roofline: Roofline
    contestants: list[Contestant]
    comparisons: list[Comparison]
    stages_ms: dict[str, dict[str, float]]  # contestant -> stage -> median of eager passes, split alike
    host: HostTime

    @property
    def ours(self) -> list[Contestant]:
        """The contestants of ours in the run's precision."""
        return [c for c in self.contestants if c.side == "ours" and c.precision is None]

    @property
    def best(self) -> Contestant:
        """The contestant of `ours` with the highest throughput."""
        return max(self.ours, key=lambda c: c.throughput_fps)


@dataclass(frozen=True, kw_only=True)
class NodeShare(Run):
    """A run of `m2f bench-node`: CPU time that the node adds to a frame beyond the pipeline."""

    frame_size: Size
    encoding: str
    rate_hz: float  # at most
    outputs: list[str]  # topics that were listened to, raw
    time_ms: Spread  # of the node's process
    threads_ms: dict[str, float]  # median of each of its threads


Kind = TypeVar("Kind", bound=Run)


def is_own(text: str) -> bool:
    """Return True if `write`, of any version, wrote this text."""
    return any(has_keys("schema", "machine", "date", key)(text) for key in ("contestants", "threads_ms"))


def write(result: Run, path: Path) -> None:
    """Write the JSON. ConfigError where it cannot be written, OutputError where another file is."""
    write_text(json.dumps(to_json(result), indent=1, allow_nan=False) + "\n", path, is_own)


def write_text(text: str, path: Path, own: Callable[[str], bool]) -> None:
    """Write a command's file, whole or not at all. own: see `replace_own`. Raises as `write`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_own(path, text, own)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}; name another place") from None


def to_json(value: Any, read: Any = None) -> Any:
    """A result as JSON's lists and objects, with the unknown fields of the JSON `read` that it was made of."""
    if is_dataclass(value):
        old = read if isinstance(read, dict) else getattr(value, "as_read", {})
        own = {f.name: to_json(getattr(value, f.name), old.get(f.name)) for f in fields(value) if f.name != "as_read"}
        return own | {key: old[key] for key in old if key not in own}
    if isinstance(value, list | tuple):
        old = read if isinstance(read, list) and len(read) == len(value) else [None] * len(value)
        return [to_json(item, of) for item, of in zip(value, old, strict=True)]
    return {key: to_json(item) for key, item in value.items()} if isinstance(value, dict) else value


def read(path: Path, kind: type[Kind]) -> Kind:
    """Read a result that `write` wrote, by any version. ConfigError for a file that is no result of this type."""
    # The check on a GPU writes results where msgspec may be missing.
    from m2f_ros.typed import as_type

    content = read_object(path)
    try:
        return replace(as_type(content, kind), as_read=content)
    except DocumentError as error:
        raise ConfigError(f"{path} is no {kind.__name__} of a benchmark: {error}; measure again") from None


def read_object(path: Path, kind: str = "") -> dict[str, Any]:
    """The JSON object in a file, of version 1 or later; a later one than SCHEMA is said. ConfigError for others.

    kind: value of the object's field of that name, where it has one.
    """
    try:
        content = read_json(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except DocumentError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is no result of a benchmark: it holds no JSON object; measure again")
    if kind and content.get("kind") != kind:
        raise ConfigError(f"{path} is not what m2f {kind} writes; run that again, or remove the file")
    schema = content.get("schema")
    if not isinstance(schema, int) or schema < 1:
        raise ConfigError(f"{path} has schema {schema!r}, not {SCHEMA}; measure again")
    if schema > SCHEMA:
        say_once(f"{path} has schema {schema}, newer than {SCHEMA} of this m2f: fields that are not known are left out")
    return content
