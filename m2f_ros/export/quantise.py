"""Puts a model's products into eight bits: calibrates, chooses, writes the checkpoint, scores it before and after."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

import m2f_ros
from m2f_ros.errors import ConfigError, SourceError
from m2f_ros.export.calibrate import Calibration, calibrate
from m2f_ros.export.mixed import Choice, choose
from m2f_ros.export.verify import Rounding
from m2f_ros.files import whole
from m2f_ros.frame.frame import Frame
from m2f_ros.metrics import Confusion
from m2f_ros.model import Network, load
from m2f_ros.model.adapters.huggingface import AdaptedConfig
from m2f_ros.model.checkpoint import find
from m2f_ros.model.network import Result
from m2f_ros.model.quantised import Quantisation
from m2f_ros.model.quantised_files import FILE, save_quantised, sums
from m2f_ros.pipeline import Pipeline
from m2f_ros.pipeline.backends.eager import Eager
from m2f_ros.pipeline.classes import taxonomy_of
from m2f_ros.results import Results
from m2f_ros.sources.open import is_street, open_source
from m2f_ros.tables import columns
from m2f_ros.taxonomy import Taxonomy, merge_table

COMMAND = "m2f quantize"
STREETS = 10  # that "street" stands for
UNSEEN = 2000  # seed of the first of them to score: no shipped model was trained on it
_EXPORTED = 8  # frames to compare an export with PyTorch
_FEW = 4  # frames of each drive for the cost of a product alone
Say = Callable[[str], object]


@dataclass(frozen=True)
class Settings:
    """How to quantise a model.

    Attributes:
        model: name of a shipped model, folder of a checkpoint, or Hugging Face hub id.
        calibrate: sources of the frames whose ranges are taken; see `open_source`. "street" is ten streets.
        score: sources of the frames that are scored; empty for other frames of `calibrate`, or for "street" other
            streets.
        labels, taxonomy: labels of the scored sources; see `open_source`.
        frames: number of frames to calibrate with.
        scored: number of frames to score of each source, "street" being one.
        max_loss: most mIoU that may be lost on any of the scored sources.
    Raises:
        ConfigError: a number is out of range.
    """

    model: str
    calibrate: Sequence[str] = ("street",)
    score: Sequence[str] = ()
    labels: str | None = None
    taxonomy: str | None = None
    frames: int = 20
    scored: int = 20
    max_loss: float = 0.005

    def __post_init__(self) -> None:
        for name, value in (("--frames", self.frames), ("--scored", self.scored)):
            if value < 1:
                raise ConfigError(f"{name} {value}: there are no frames to calibrate with; give 1 or more")
        if not 0 <= self.max_loss <= 1:
            raise ConfigError(f"--max-loss {self.max_loss:g}: it must be 0 to 1")


class Drive(NamedTuple):
    """Scored frames of one kind.

    Attributes:
        name: the source.
        frames: the frames.
        truth: labels of each, (H, W); empty where the source has none.
        taxonomy: taxonomy of these labels; None without labels.
    """

    name: str
    frames: list[Frame]
    truth: list[np.ndarray]
    taxonomy: Taxonomy | None

    def only(self, numbers: Sequence[int]) -> Drive:
        """Return the part with these frames."""
        truth = [self.truth[i] for i in numbers] if self.truth else []
        return self._replace(frames=[self.frames[i] for i in numbers], truth=truth)


@dataclass
class Scores:
    """Scores of one drive. loss: mIoU lost; without labels 1 minus the mIoU of the labels against those before."""

    drive: str
    frames: int
    labelled: bool
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    equal: float = 1.0  # share of the labels that are the same
    loss: float = 0.0


def quantise(settings: Settings, out: Path, say: Say = lambda line: None) -> dict[str, Any]:
    """Write a model's quantised checkpoint, and return the content of its FILE.

    Nothing is written unless the loss of the finished checkpoint, as the backend for it computes it, is within the
    bound.

    Args:
        out: folder; new, empty or of an earlier run.
        say: function that takes a line about each step.
    Raises:
        SourceError: a source cannot be read, or has no frames.
        ConfigError: the bound cannot be held.
        CheckpointError, OutputError: the model cannot be read, or `out` holds other files.
    """
    results = Results(out, COMMAND, [settings.model, settings.labels, *settings.calibrate, *settings.score])
    with tempfile.TemporaryDirectory(prefix="m2f_quantize_") as scratch:
        folder = Path(scratch) / "model"
        about, _ = _make(settings, folder, say)
        _move(folder, results)
    return about


def quantise_for_onnx(settings: Settings, out: Path, say: Say = lambda line: None) -> dict[str, Any]:
    """Write a model's export to ONNX with its products in eight bits; see `quantise` and `export`."""
    from m2f_ros.export import export, formats
    from m2f_ros.export.settings import Settings as ExportSettings

    formats.check_packages(ExportSettings(settings.model, precision="int8"))  # before minutes of work
    with tempfile.TemporaryDirectory(prefix="m2f_quantize_") as scratch:
        folder = Path(scratch) / "model"
        about, drives = _make(settings, folder, say)
        frames = drives[0].frames[:_EXPORTED]
        frames = frames if len(frames) > 1 else frames * 2
        export.export(ExportSettings(str(folder), precision="int8"), out, frames, drives[0].name, say, settings.model)
    return about


def _make(settings: Settings, folder: Path, say: Say) -> tuple[dict[str, Any], list[Drive]]:
    """Write the checkpoint; return the content of its FILE and the scored frames."""
    network = load(settings.model)
    if isinstance(network.config, AdaptedConfig):
        raise ConfigError(f"m2f quantize: {settings.model} is a network of transformers, which stays in floating point")
    taxonomy = taxonomy_of(settings.model, network.config)
    frames, drives = _frames(settings)
    for drive in drives:
        if not drive.truth:
            say(f"{drive.name} has no labels: what is lost is counted against the labels of the model in fp32")
    calibration = calibrate(network, _pixels(network, taxonomy, frames), say)
    say(f"labels in floating point, by {_backend()}")
    exact = _in_floating_point(network, taxonomy)
    before = [_labels(exact, drive.frames) for drive in drives]
    everything = calibration.quantisation.ranges.keys()
    scores: dict[frozenset[str], list[Scores]] = {}

    def loss(quantisation: Quantisation) -> float:
        """Score the checkpoint as it is stored, so that the last one needs no further scoring."""
        chosen = frozenset(quantisation.ranges)
        network.quantisation = quantisation
        save_quantised(network, folder, _exact(everything - chosen), {})
        finished = _in_eight_bits(load(folder, eight_bits=True), taxonomy)
        scores[chosen] = [
            score(drive, taxonomy, x, _labels(finished, drive.frames)) for drive, x in zip(drives, before, strict=True)
        ]
        return max(found.loss for found in scores[chosen])

    choice = _choose(network, taxonomy, drives, calibration, settings.max_loss, loss, say)
    network.quantisation = choice.quantisation
    kept = choice.steps[-1].kept
    about: dict[str, Any] = {
        "made_by": f"m2f_ros {m2f_ros.__version__}",
        "model": settings.model,
        "weights": sums(find(settings.model)),
        "calibrated": {"sources": list(settings.calibrate), "frames": len(frames)},
        "max_loss": settings.max_loss,
        "share": round(calibration.share(choice.quantisation.ranges.keys()), 4),
        "kept": {name: round(choice.cost[name], 6) for name in kept},
        "tried": [{"kept": len(s.kept), "share": round(s.share, 4), "loss": round(s.loss, 5)} for s in choice.steps],
    }
    save_quantised(network, folder, _exact(kept), about)
    size = (folder / "model.safetensors").stat().st_size
    of_fp32 = sum(value.numel() for value in network.state_dict().values()) * 4
    about |= {
        "bytes": {"int8": size, "fp32": of_fp32},
        "backend": _backend(),
        "scores": [_rounded(vars(found)) for found in scores[frozenset(choice.quantisation.ranges)]],
    }
    save_quantised(network, folder, _exact(kept), about)
    return about, drives


def _frames(settings: Settings) -> tuple[list[Frame], list[Drive]]:
    """Return the frames to calibrate with, and those to score, which are others."""
    frames: list[Frame] = []
    scored: list[Drive] = []
    own = not settings.score
    calibrating = _streets(settings.calibrate, 0)
    for spec, few in _parts(calibrating, settings.frames):
        # For "street" other streets are scored.
        more = settings.scored if own and not ("street" in settings.calibrate and is_street(spec)) else 0
        drive = _read(spec, settings, few + more, labelled=more > 0)
        chosen = {round(i) for i in np.linspace(0, len(drive.frames) - 1, min(few, len(drive.frames)))}
        frames += [frame for i, frame in enumerate(drive.frames) if i in chosen]
        rest = [i for i in range(len(drive.frames)) if i not in chosen] if more else []
        if more and not rest:
            raise SourceError(f"{spec}: has {len(drive.frames)} frames, and none is left to score; give --score")
        scored.append(drive.only(rest))
    for source in settings.score or (["street"] if "street" in settings.calibrate else []):
        for spec, count in _parts(_streets([source], UNSEEN), settings.scored):
            scored.append(_read(spec, settings, count, labelled=True))
    return frames, _joined([drive for drive in scored if drive.frames])


def _streets(specs: Sequence[str], first: int) -> list[str]:
    """Return the sources, plain "street" replaced by STREETS streets from this seed on."""
    streets = [f"street:{seed}" for seed in range(first, first + STREETS)]
    return [name for spec in specs for name in (streets if spec == "street" else [spec])]


def _parts(specs: Sequence[str], count: int) -> Iterator[tuple[str, int]]:
    """Yield each source with its part of a number of frames, at least 1."""
    for number, spec in enumerate(specs):
        yield spec, max(1, len(range(number, count, len(specs))))


def _read(spec: str, settings: Settings, count: int, labelled: bool) -> Drive:
    """Read `count` frames, evenly spaced, or as many as there are; of an endless source three seconds apart."""
    labels, taxonomy = (settings.labels, settings.taxonomy) if labelled and not is_street(spec) else (None, None)
    source = open_source(spec, labels=labels, taxonomy=taxonomy)
    length = source.length
    step = round(3 * source.rate) if length is None else max(1, (length - 1) / max(1, count - 1))
    wanted = {round(i * step) for i in range(count)}
    frames, truth = [], []
    numbers = sorted(wanted)
    samples = (next(iter(source.samples(i))) for i in numbers) if is_street(spec) else source.samples()
    for sample in samples:
        if sample.index in wanted and sample.frame is not None:
            frames.append(Frame(sample.frame.data.copy(), sample.frame.encoding, sample.frame.bits))
            if sample.label is not None:
                truth.append(sample.label.copy())
        if sample.index >= numbers[-1]:
            break
    if not frames:
        raise SourceError(f"{spec}: has no frames to calibrate with")
    whole_truth = truth if len(truth) == len(frames) else []
    return Drive(spec, frames, whole_truth, source.taxonomy if whole_truth else None)


def _joined(drives: Sequence[Drive]) -> list[Drive]:
    """Return the drives, all streets as one."""
    streets = [drive for drive in drives if is_street(drive.name)]
    rest = [drive for drive in drives if not is_street(drive.name)]
    if not streets:
        return rest
    name = f"{len(streets)} simulated streets" if len(streets) > 1 else streets[0].name
    frames = [frame for drive in streets for frame in drive.frames]
    truth = [label for drive in streets for label in drive.truth]
    return [Drive(name, frames, truth, streets[0].taxonomy), *rest]


class _Recorder(Eager):
    """Eager, which keeps the pixels that it is called with, and computes the result of the first ones of a size."""

    def __init__(self, model: Network):
        super().__init__(model)
        self.seen: list[Tensor] = []
        self._results: dict[tuple[int, ...], Result] = {}

    def __call__(self, pixels: Tensor, memory: Tensor | None = None) -> Result:
        self.seen.append(pixels.contiguous())
        shape = tuple(pixels.shape)
        if shape not in self._results:
            self._results[shape] = super().__call__(pixels, memory)
        return self._results[shape]


def _pixels(network: Network, taxonomy: Taxonomy, frames: Sequence[Frame]) -> list[Tensor]:
    """Return the normalised pixels of frames, as the pipeline gives them to the network."""
    recorder = _Recorder(network)
    for frame in frames:
        _pipeline(network, taxonomy, recorder).segment(frame, {"label"})
    return recorder.seen


def _pipeline(network: Network, taxonomy: Taxonomy, backend: Any, precision: str = "fp32") -> Pipeline:
    return Pipeline(network, taxonomy, device="cpu", precision=precision, backend=backend)


def _labels(pipeline: Pipeline, frames: Sequence[Frame]) -> list[np.ndarray]:
    found = [pipeline.segment(frame, {"label"}).label for frame in frames]
    return [label.copy() for label in found if label is not None]


def _choose(
    network: Network,
    taxonomy: Taxonomy,
    drives: Sequence[Drive],
    calibration: Calibration,
    most: float,
    loss: Callable[[Quantisation], float],
    say: Say,
) -> Choice:
    """Choose the products: by the loss as the backend computes it, in the order of their costs in PyTorch's rounding.

    Args:
        loss: returns the mIoU that a quantisation loses.
    """
    backend = Rounding(network)
    pipeline = _pipeline(network, taxonomy, backend)
    some = [frame for drive in drives for frame in drive.frames[:_FEW]]
    exact: list[np.ndarray] = []

    def changed(quantisation: Quantisation) -> float:
        if not exact:
            exact.extend(_labels(pipeline, some))
        backend.quantisation = quantisation
        try:
            pairs = zip(exact, _labels(pipeline, some), strict=True)
            return float(np.mean([(x != y).mean() for x, y in pairs]))
        finally:
            backend.quantisation = None

    return choose(calibration, most, loss, changed, say)


def score(drive: Drive, taxonomy: Taxonomy, before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> Scores:
    """Compare labels before and after.

    Args:
        taxonomy: the model's.
        before, after: labels of each frame.
    """
    found = Scores(drive.name, len(drive.frames), bool(drive.truth))
    found.equal = float(np.mean([(x == y).mean() for x, y in zip(before, after, strict=True)]))
    truth, classes = (drive.truth, drive.taxonomy) if drive.taxonomy else (before, taxonomy)
    merge, means = merge_table(taxonomy, classes), []
    for labels in (before, after):
        confusion = Confusion(len(classes.classes))
        for true, label in zip(truth, labels, strict=True):
            confusion.update(true, merge[label], unlabelled=classes.unlabelled)
        iou = dict(zip(classes.names, confusion.iou().tolist(), strict=True))
        means.append(confusion.miou() or 0.0)
        scores = {"miou": means[-1], "iou": {k: None if np.isnan(v) else v for k, v in iou.items()}}
        found.before, found.after = (scores, {}) if labels is before else (found.before, scores)
    found.loss = means[0] - means[1]
    return found


def _backend() -> str:
    """Return what computes the scored labels: OpenVINO, or where it is absent PyTorch."""
    return "openvino" if importlib.util.find_spec("openvino") else "PyTorch with rounding"


def _in_floating_point(network: Network, taxonomy: Taxonomy) -> Pipeline:
    return _pipeline(network, taxonomy, "openvino" if _backend() == "openvino" else "eager")


def _in_eight_bits(network: Network, taxonomy: Taxonomy) -> Pipeline:
    """Return a pipeline with the network's quantisation."""
    if _backend() == "openvino":
        return _pipeline(network, taxonomy, "openvino", "int8")
    return _pipeline(network, taxonomy, Rounding(network, network.quantisation))


def _exact(kept: Collection[str]) -> set[str]:
    """Return the names of the weights of these products, as far as a module of their own has them."""
    return {f"{name.rpartition(':')[0]}.weight" for name in kept}


def _move(folder: Path, results: Results) -> None:
    """Copy the finished files into the folder of results, the one that makes it a quantised checkpoint last."""
    with results:
        results.clear()
        for path in sorted(folder.iterdir(), key=lambda path: path.name == FILE):
            with whole(results.new(path.name)) as partial:
                shutil.copyfile(path, partial)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 5) if isinstance(value, float) else value


def describe(about: dict[str, Any]) -> str:
    """Return the report of a quantised checkpoint in lines."""
    lines = [
        f"{about['share']:.1%} of the multiplications in eight bits; {about['bytes']['int8'] / 1e6:.1f} MB in place of "
        f"{about['bytes']['fp32'] / 1e6:.1f}; scored with {about['backend']}",
        *(
            f"kept in floating point: {name} (alone it changes {cost:.2%} of the labels)"
            for name, cost in about["kept"].items()
        ),
    ]
    for found in about["scores"]:
        lines += ["", f"{found['drive']}, {found['frames']} frames: {found['equal']:.2%} of the labels are the same"]
        kind = "IoU" if found["labelled"] else "IoU against the labels in fp32"
        rows = [(kind, "before", "after", "lost")]
        names = [name for name, value in found["before"]["iou"].items() if value is not None]
        pairs = [(name, found["before"]["iou"][name], found["after"]["iou"].get(name) or 0.0) for name in names]
        for name, before, after in [*pairs, ("mean", found["before"]["miou"], found["after"]["miou"])]:
            rows.append((name, f"{before:.4f}", f"{after:.4f}", f"{before - after:+.4f}"))
        lines.append(columns(rows))
    return "\n".join(lines)
