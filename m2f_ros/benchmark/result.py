"""What a run found, and its JSON. Field names end in their unit; a figure that was not measured is null."""

from __future__ import annotations

import json
import types
import typing
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path

from m2f_ros.benchmark.settings import Settings
from m2f_ros.benchmark.stats import Spread
from m2f_ros.documents import read_json
from m2f_ros.errors import ConfigError, DocumentError
from m2f_ros.files import has_keys, replace_own

if typing.TYPE_CHECKING:
    from m2f_ros.benchmark.node_share import NodeShare

SCHEMA = 1
T = typing.TypeVar("T")


@dataclass(frozen=True)
class Machine:
    """Where it ran. cores: those that this process may use, of cores_in_all."""

    system: str
    cpu: str
    cores: int
    cores_in_all: int
    memory_gib: float
    gpu: str | None
    gpu_memory_gib: float | None
    gpu_capability: str | None


@dataclass(frozen=True)
class Run:
    """The fields that all results begin with; `machine.run_fields` makes them.

    commit: of the package's checkout, None without one; dirty: files differ from it.
    """

    schema: int
    date: str
    command: str
    commit: str | None
    dirty: bool | None
    machine: Machine
    versions: dict[str, str]


@dataclass(frozen=True)
class Input:
    """The frames, the same for all. sha256: of their bytes, one after the other."""

    source: str
    count: int
    frame_size: tuple[int, int]
    network_size: tuple[int, int]
    sha256: str


@dataclass(frozen=True)
class Weights:
    """The weights, the same for all. origin: where from, in words; random: not trained."""

    origin: str
    random: bool
    parameters: int
    labels: int


@dataclass(frozen=True)
class Work:
    """Operations and traffic for one batch, of matrix products, convolutions, attention and weighted sums alone.

    network_gflop, head_gflop: of this package's network in plain fp32 torch code; a multiply-add is two operations.
    gigabytes: operands and results of these operations, each once, in the run's precision.
    hf_network_gflop: of transformers' code.
    """

    network_gflop: float
    head_gflop: float
    gigabytes: float
    hf_network_gflop: float | None


@dataclass(frozen=True)
class Roofline:
    """Measured in the same run: matrix product in the run's precision, copy in the device's memory (read and write).

    bound_ms: max(network_gflop + head_gflop over gemm rate, gigabytes over copy rate), for one batch.
    """

    gemm_tflop_per_s: float
    copy_gb_per_s: float
    bound_ms: float


@dataclass(frozen=True)
class AtRate:
    """Latency of frames that arrive whether or not the last one is done; of those waiting only the newest is taken.

    Latency counts from the moment of arrival to the result on the host. jitter_ms: its standard deviation.
    """

    rate_hz: float
    arrived: int
    done: int
    dropped: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    jitter_ms: float


@dataclass(frozen=True)
class Contestant:
    """One way to segment the frames.

    name: unique in the result. side: "ours" or "theirs". what: in words.
    setup_s: load, conversion, compilation and the first frame.
    time_ms: one batch, from frames in the host's memory to labels in the host's memory, with nothing else in flight.
    throughput_fps: frames a second in steady state, as many in flight as the contestant allows.
    stages_ms: median of each stage, as this contestant's own code tells them apart.
    at_rate: None where it was left out.
    memory_mb: what it adds while it runs: peak of the device's memory, on a CPU of the process' resident memory.
    agreement: pixels with the label of the fp32 reference, 0 to 1; of all different frames.
    disagreement_margin: where labels differ, by how much the reference's best score leads its second at most, as a part
        of it: near 0 where they differ by rounding alone. None where none differs.
    class_logit_error, mask_logit_error: largest difference from the reference's logits. None where they cannot be had
        or are not all finite.
    roofline_share: the bound of the roofline over the time a batch takes in steady state.
    """

    name: str
    side: str
    what: str
    setup_s: float
    time_ms: Spread
    throughput_fps: float
    stages_ms: dict[str, float]
    at_rate: AtRate | None
    memory_mb: float | None
    agreement: float
    disagreement_margin: float | None
    class_logit_error: float | None
    mask_logit_error: float | None
    roofline_share: float


@dataclass(frozen=True)
class Comparison:
    """Two contestants. ratio: median time of theirs over that of ours; paired_ratio: of each round.

    throughput_ratio: frames a second of ours over those of theirs. agreement: of ours with the fp32 reference.
    """

    ours: str
    theirs: str
    ratio: float
    paired_ratio: Spread
    throughput_ratio: float
    agreement: float


@dataclass(frozen=True)
class HostTime:
    """Time of the Python thread for one frame of `frame_size` outside the device's work; the network is a stub."""

    frame_size: tuple[int, int]
    network_size: tuple[int, int]
    time_ms: Spread


@dataclass(frozen=True)
class Result(Run):
    """A run of `m2f bench`.

    settings: as asked; device, precision and threads: as taken.
    reference: what the agreement is with, in words. reference_labels: classes that occur in it.
    stages_ms: of an eager pass: contestant -> stage -> median milliseconds, all in the same terms.
    """

    settings: Settings
    device: str
    precision: str
    threads: int
    input: Input
    weights: Weights
    reference: str
    reference_labels: int
    work: Work
    roofline: Roofline
    contestants: list[Contestant]
    comparisons: list[Comparison]
    stages_ms: dict[str, dict[str, float]]
    host: HostTime

    def contestant(self, name: str) -> Contestant:
        return next(c for c in self.contestants if c.name == name)


def is_own(text: str) -> bool:
    """Return True if `write`, of any version, wrote this text."""
    return any(has_keys("schema", "machine", "date", key)(text) for key in ("contestants", "threads_ms"))


def write(result: Result | NodeShare, path: Path) -> None:
    """Write the JSON. ConfigError where it cannot be written, OutputError where another file is."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_own(path, json.dumps(asdict(result), indent=1, allow_nan=False) + "\n", is_own)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None


def read(path: Path, kind: type[T] = Result) -> T:
    """Read the Result or NodeShare that `write` wrote.

    ConfigError for anything else: fields that are missing, surplus or of another type.
    """
    try:
        content = read_json(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except DocumentError as error:
        raise ConfigError(f"{path}: {error}") from None
    if isinstance(content, dict) and content.get("schema") != SCHEMA:
        raise ConfigError(f"{path} has schema {content.get('schema')!r}, not {SCHEMA}; measure again")
    try:
        return _build(kind, content, "")
    except TypeError as error:
        raise ConfigError(f"{path} is no {kind.__name__} of a benchmark: {error}") from None


def _build(kind: typing.Any, value: typing.Any, where: str) -> typing.Any:
    """`value`, of JSON, as the type `kind`: dataclasses, lists, tuples, dicts, unions with None, plain values."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if is_dataclass(kind):
        if not isinstance(value, dict):
            raise TypeError(f"{where or 'the file'} is no object")
        hints = typing.get_type_hints(kind)
        names = [field.name for field in fields(kind)]
        for problem, keys in (("lacks", set(names) - set(value)), ("has surplus", set(value) - set(names))):
            if keys:
                raise TypeError(f"{where or 'it'} {problem} {', '.join(sorted(keys))}")
        return kind(**{name: _build(hints[name], value[name], f"{where}.{name}".lstrip(".")) for name in names})
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _build(next(p for p in parts if p is not type(None)), value, where)
    if origin is dict and isinstance(value, dict):
        return {key: _build(parts[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin in (list, tuple) and isinstance(value, list):
        return origin(_build(parts[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and type(value) is kind:
        return value
    raise TypeError(f"{where} is {value!r}, not {getattr(kind, '__name__', kind)}")
