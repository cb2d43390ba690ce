"""The figures of a card: the checkpoint's own, and results of `m2f eval` and `m2f bench` with their files."""

from __future__ import annotations

import hashlib
import logging
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from m2f_ros.benchmark.report import load as load_benchmarks
from m2f_ros.benchmark.result import Result as Benchmark
from m2f_ros.errors import ConfigError, EvaluationError
from m2f_ros.evaluation.card.about import About, Evaluation
from m2f_ros.evaluation.intervals import miou_interval
from m2f_ros.evaluation.options import Options
from m2f_ros.evaluation.report.tables import problems
from m2f_ros.evaluation.result import Result
from m2f_ros.model import SWIN, ModelConfig, SwinConfig, load
from m2f_ros.model.checkpoint import find
from m2f_ros.pipeline.classes import taxonomy_of
from m2f_ros.taxonomy import Taxonomy

log = logging.getLogger("m2f_ros.evaluation")


@dataclass(frozen=True)
class Facts:
    """The files of a checkpoint.

    Attributes:
        spec: as the user named it: a folder, a shipped model, a hub id.
        parameters: number of weights in the network as it runs.
        weights: name, bytes and sha256 of each file of weights.
    """

    spec: str
    folder: Path
    config: ModelConfig
    taxonomy: Taxonomy
    parameters: int
    weights: list[tuple[str, int, str]]

    @property
    def network(self) -> str:
        """The network in words."""
        c = self.config
        if isinstance(c.backbone, SwinConfig):
            backbone = next((name for name, known in SWIN.items() if known == c.backbone), "Swin")
        else:
            backbone = c.backbone
        return (
            f"Mask2Former, {backbone} backbone, {c.hidden_dim} channels, {c.encoder_layers} pixel decoder and "
            f"{c.decoder_layers} decoder layers, {c.num_queries} queries"
        )

    def is_called(self, model: str) -> bool:
        """Return True if a result's name of a model means this checkpoint."""
        same_folder = Path(model).is_dir() and Path(model).resolve() == self.folder.resolve()
        return bool(model) and (model == self.spec or same_folder)


def read_facts(spec: str) -> Facts:
    """Read a checkpoint: a folder, the name of a shipped model, or a hub id. Raises CheckpointError, ConfigError."""
    folder = find(spec)
    config = ModelConfig.read(folder)
    parameters = sum(parameter.numel() for parameter in load(folder).parameters())
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    weights = [(file.name, file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest()) for file in files]
    return Facts(spec, folder, config, taxonomy_of(spec, config), parameters, weights)


@dataclass(frozen=True)
class Evidence:
    """An evaluation.

    Attributes:
        about: its entry in the card.yaml.
        file: the JSON.
        interval: 95 % interval of the mean IoU.
    """

    about: Evaluation
    file: Path
    result: Result
    interval: tuple[float, float] | None

    @property
    def of_another(self) -> bool:
        """True for an evaluation of another model than the card's."""
        return bool(self.about.model)

    @property
    def title(self) -> str:
        return self.about.title or self.result.truth

    @property
    def command(self) -> str:
        """The command that made the JSON: the card.yaml's, else the m2f eval alone; "" where neither is known."""
        # The evaluation node writes topics, and not what was played.
        return self.about.command or ("" if self.result.settings.get("live") else eval_command(self.result))


def evaluations(about: About, more: Sequence[Path], facts: Facts) -> list[Evidence]:
    """Those of the card.yaml, then `more`: results of m2f eval, or their folders.

    Raises EvaluationError where there is none of this model, one cannot be read, is of another model, or of a part of
    the frames.
    """
    asked = [(entry, about.folder / entry.result) for entry in about.evaluations]
    asked += [(Evaluation(str(path)), path) for path in more]
    if all(entry.model for entry, _ in asked):
        raise EvaluationError(
            f"{facts.spec}: nothing was measured: give --evaluation, the folder of an m2f eval of its predictions"
        )
    return [_read(entry, path / "result.json" if path.is_dir() else path, about, facts) for entry, path in asked]


def _read(entry: Evaluation, file: Path, about: About, facts: Facts) -> Evidence:
    result = Result.load(file)
    if lacking := problems(result):
        raise EvaluationError(
            f"{file}: of a part of the frames, which is no figure for a card: {lacking[0]}; score whole recordings"
        )
    # Predictions in folders of PNGs do not say whose they are.
    if entry.model:
        if result.model and result.model != entry.model:
            raise EvaluationError(f"{file}: of the model {result.model}, not of {entry.model}, as the card.yaml says")
    elif result.model and result.model != about.name and not facts.is_called(result.model):
        raise EvaluationError(
            f"{file}: is of the model {result.model}, not of {facts.spec}; give m2f replay --model {facts.spec} and "
            "score anew, or name CHECKPOINT as it was named there"
        )
    return Evidence(entry, file, result, miou_interval(result))


def eval_command(result: Result) -> str:
    """The `m2f eval` that gives this result."""
    words = ["m2f", "eval", *result.predictions.split(", ")]
    for truth in result.truth.split(", "):
        words += ["--truth", truth]
    defaults = vars(Options((), ()))
    for key, value in result.settings.items():
        if key in defaults and value != defaults[key]:
            option = key.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{option}" if value else f"--no-{option}")
            else:
                words += [f"--{option}", str(value)]
    return shlex.join(words)


def benchmarks(folder: Path | None, about: About, facts: Facts) -> dict[Path, Benchmark]:
    """File -> result of each benchmark in the folder that is of this network; those of one of another shape are not.

    Raises ConfigError for a file that is none, and where there is no such folder.
    """
    if folder is None:
        return {}
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder of benchmarks; m2f bench --json {folder}/FILE makes one")
    found = {}
    for name, result in load_benchmarks(folder).items():
        if not isinstance(result, Benchmark):  # of the node, with whatever model
            continue
        model = result.settings.model
        if model != about.name and not facts.is_called(model):
            continue
        if result.weights.parameters != facts.parameters:
            log.warning(
                "%s: left out: of a network of %d weights, %s has %d; measure anew with m2f bench",
                folder / f"{name}.json",
                result.weights.parameters,
                facts.spec,
                facts.parameters,
            )
            continue
        found[folder / f"{name}.json"] = result
    return found
