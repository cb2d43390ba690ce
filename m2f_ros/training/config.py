"""The YAML file of a training run, read into dataclasses with every key and type checked."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from m2f_ros import taxonomy as taxonomies
from m2f_ros.documents import read_yaml
from m2f_ros.errors import ConfigError, DocumentError
from m2f_ros.training.losses import LossConfig


@dataclass(frozen=True)
class NetworkConfig:
    """Shape of the network, as m2f_ros.model.ModelConfig names it, and the weights it starts from."""

    backbone: str = "efficientnet_lite2"  # or efficientnet_lite0, _lite1, swin-tiny, -small, -base, -large
    hidden_dim: int = 128
    heads: int = 8
    encoder_layers: int = 2
    encoder_ffn: int = 512
    # The convolution of the mask features at stride 4 with an eighth of its work; transformers has no such network.
    separable_output: bool = False
    decoder_layers: int = 4
    decoder_ffn: int = 512
    # None: 32, or those of `weights`. Another number than a checkpoint has: its queries start anew.
    num_queries: int | None = None
    # Smaller images are enlarged, larger ones shrunk to about so many in use; none: never, or as the checkpoint of
    # `weights` has it.
    min_pixels: int | None = None
    max_pixels: int | None = None
    # imagenet: the backbone only, of an EfficientNet-Lite. A folder relative to the config, a shipped model or a hub
    # id: all, and its shape in place of the one above; its class layer where data.taxonomy is the checkpoint's.
    weights: str | None = None
    freeze: str = "none"  # backbone, or all_but_class_layer: what does not learn


@dataclass(frozen=True)
class StreetConfig:
    """Simulated streets, of which each frame is drawn whenever it is needed."""

    seeds: tuple[int, int] = (0, 99)  # first and last, one street each
    frames: int = 300  # length of a drive
    every: int = 15  # one frame of so many
    size: tuple[int, int] = (640, 480)  # width, height


@dataclass(frozen=True)
class DataSetConfig:
    """Images and labels in one of the conventions of m2f_ros.datasets, or streets."""

    name: str
    images: str | None = None  # folder, relative to root
    labels: str | None = None  # folder, or JSON of COCO's panoptic format
    street: StreetConfig | None = None  # in place of the two
    root: str | None = None  # data.root where it is not given; relative to the config file
    taxonomy: str | None = None  # of the ids in the label files, merged into the model's; none: guessed from names, ids
    weight: float = 1.0  # share of the training samples drawn from this set
    only: tuple[str, ...] = ()  # prefixes of file names; empty: all
    exclude: tuple[str, ...] = ()  # prefixes of file names left out


@dataclass(frozen=True)
class DataConfig:
    """Where the samples come from."""

    train: tuple[DataSetConfig, ...]
    evaluate: tuple[DataSetConfig, ...] = ()
    root: str = "."  # relative to the config file; --data replaces it
    taxonomy: str = "cityscapes"  # the model's classes
    panoptic: bool = False  # things one by one; those that a data set does not tell apart are taken for unlabelled
    workers: int = 2  # processes that load and augment


@dataclass(frozen=True)
class CoolDownConfig:
    """What replaces the same keys of AugmentConfig over schedule.cool_down.

    A network sees whole images in use and crops in training, and things larger or smaller than there; some steps of
    larger crops at the scale of use adapt it. (Touvron et al. 2019, https://arxiv.org/abs/1906.06423)
    """

    crop: tuple[int, int]
    scale: tuple[float, float]


@dataclass(frozen=True)
class AugmentConfig:
    """Ranges are uniform; see m2f_ros.training.augment."""

    crop: tuple[int, int] = (320, 256)  # width, height; multiples of 32
    scale: tuple[float, float] = (0.5, 2.0)  # of the image, drawn log-uniformly
    # Large-scale jitter (Ghiasi et al. 2021; theirs with scale: [0.1, 2.0]): scale is of the largest size that fits
    # into the crop, and drawn uniformly.
    large_scale_jitter: bool = False
    rare_class: float = 0.5  # chance that the crop lies around a pixel of a class drawn evenly
    # A crop of which one class has this share or more is drawn again, ten times at most, as upstream does; 1: never.
    single_category_max_area: float = 1.0
    smallest_thing: int = 0  # things of fewer pixels in the crop are unlabelled; see data.panoptic
    flip: float = 0.5
    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.4
    hue: float = 0.03
    gamma: float = 0.3
    blur: float = 0.1  # chances
    noise: float = 0.15
    jpeg: float = 0.15
    cool_down: CoolDownConfig | None = None


@dataclass(frozen=True)
class ScheduleConfig:
    """Optimiser and its course over the steps."""

    steps: int = 20000
    stop: int = 0  # steps after which the run ends, where that is before the schedule does; 0: with the schedule
    batch: int = 4  # images of a step, all processes together
    accumulate: int = 1  # parts of it that go through the network one after the other: less memory, the same numbers
    rate: float = 5e-4
    backbone_rate: float = 0.2  # factor on rate
    weight_decay: float = 0.05
    warm_up: int = 500  # steps of linear rise
    decay: str = "poly"  # poly (power 0.9), cosine, step or none
    milestones: tuple[int, ...] = ()  # steps after each of which decay: step multiplies the rate
    gamma: float = 0.1  # by this
    # The last steps of the run, over which the rate falls to 0 from what decay makes of it: ends a run well at any
    # step (Hägele et al. 2024, https://arxiv.org/abs/2405.18392).
    cool_down: int = 0
    clip: float = 1.0  # largest norm of all gradients together; 0: none
    average: float = 0.999  # decay of the moving average of the weights, which is what is evaluated and kept
    freeze_norms: bool = True  # batch-norm statistics of the backbone stay as they were

    @property
    def end(self) -> int:
        """Steps of the run."""
        return min(self.stop or self.steps, self.steps)


@dataclass(frozen=True)
class TrainConfig:
    """A whole run."""

    data: DataConfig
    seed: int = 0
    model: NetworkConfig = field(default_factory=NetworkConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    precision: str = "fp32"  # or bf16, fp16: autocast of the network, the loss stays fp32; fp16 scales the gradients
    kept_as: str = "fp32"  # dtype of the weights in model/; fp16: files of half the size
    threads: int = 0  # of the main process on a CPU; 0: torch's choice
    log_every: int = 20  # steps
    save_every: int = 500
    evaluate_every: int = 2000
    # Which model is the best: by the mean over data.evaluate of miou, accuracy or pq; none: miou, pq for data.panoptic.
    best_by: str | None = None
    early_stopping: int = 0  # evaluations without a better score after which the run ends; 0: with the schedule alone
    tensorboard: bool = False  # losses, scores and pictures in the run's folder tensorboard/ too


def load_config(path: Path, data_root: str | None = None) -> TrainConfig:
    """Read a run's YAML; folders come back absolute. data_root replaces data.root.

    Raises:
        ConfigError: the file is missing or no YAML, a key unknown or missing, a value of wrong type or range.
    """
    path = Path(path)
    try:
        raw = read_yaml(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; name a training config, config/train_street.yaml for one") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except DocumentError as error:
        raise ConfigError(f"{path}: {error}") from None
    config = _build(TrainConfig, raw, str(path))
    _check(config, path)
    root = Path(data_root) if data_root is not None else path.parent / config.data.root

    def absolute(part: DataSetConfig) -> DataSetConfig:
        base = root if part.root is None else path.parent / part.root
        places = {"images": part.images, "labels": part.labels}
        return dataclasses.replace(
            part,
            root=str(base.resolve()),
            taxonomy=part.taxonomy and _beside(path, part.taxonomy),
            **{name: place and str((base / place).resolve()) for name, place in places.items()},
        )

    data = dataclasses.replace(
        config.data,
        root=str(root.resolve()),
        taxonomy=_beside(path, config.data.taxonomy),
        train=tuple(map(absolute, config.data.train)),
        evaluate=tuple(map(absolute, config.data.evaluate)),
    )
    model = config.model
    if model.weights and (path.parent / model.weights).is_dir():
        model = dataclasses.replace(model, weights=str((path.parent / model.weights).resolve()))
    return dataclasses.replace(config, data=data, model=model)


def inputs_of(config: TrainConfig) -> list[str | None]:
    """Files and folders that the run reads, among them names that are none."""
    sets = (*config.data.train, *config.data.evaluate)
    read = [place for part in sets for place in (part.images, part.labels, part.taxonomy)]
    return [config.data.taxonomy, config.model.weights, *read]


def _beside(path: Path, taxonomy: str) -> str:
    """Absolute where it is a file, whose name is relative to that of the config at `path`."""
    file = path.parent / taxonomy
    return str(file.resolve()) if file.is_file() else taxonomy


def _check(config: TrainConfig, path: Path) -> None:
    pixel, sets = config.loss.pixel, (*config.data.train, *config.data.evaluate)
    streets = [part.street for part in sets if part.street]
    evaluated = {part.name for part in config.data.evaluate}
    classes = len(taxonomies.get(_beside(path, config.data.taxonomy)).classes)
    rules = (
        (bool(config.data.train), "data.train", "names no data set"),
        (config.precision in ("fp32", "bf16", "fp16"), "precision", "must be fp32, bf16 or fp16"),
        (config.kept_as in ("fp32", "fp16"), "kept_as", "must be fp32 or fp16"),
        (
            config.model.freeze in ("none", "backbone", "all_but_class_layer"),
            "model.freeze",
            "must be none, backbone or all_but_class_layer",
        ),
        (
            config.schedule.decay in ("poly", "cosine", "step", "none"),
            "schedule.decay",
            "must be poly, cosine, step or none",
        ),
        (
            (config.schedule.decay == "step") == bool(config.schedule.milestones)
            and list(config.schedule.milestones) == sorted(set(config.schedule.milestones)),
            "schedule.milestones",
            "must be rising steps, and there for decay: step alone",
        ),
        (config.schedule.gamma > 0, "schedule.gamma", "must be above 0"),
        (config.schedule.steps > 0, "schedule.steps", "must be above 0"),
        (config.schedule.stop >= 0, "schedule.stop", "must not be below 0"),
        (0 <= config.schedule.cool_down <= config.schedule.end, "schedule.cool_down", "must be in 0..steps of the run"),
        (config.schedule.batch > 0, "schedule.batch", "must be above 0"),
        (
            config.schedule.accumulate > 0 and config.schedule.batch % config.schedule.accumulate == 0,
            "schedule.accumulate",
            "must divide schedule.batch",
        ),
        (config.schedule.rate > 0, "schedule.rate", "must be above 0"),
        (0 <= config.schedule.average < 1, "schedule.average", "must be in 0..1, 1 excluded"),
        (config.data.workers >= 0, "data.workers", "must be 0 or more"),
        *(
            rule
            for name, part in (("augment", config.augment), ("augment.cool_down", config.augment.cool_down))
            if part
            for rule in (
                (all(s > 0 and s % 32 == 0 for s in part.crop), f"{name}.crop", "must be multiples of 32"),
                (0 < part.scale[0] <= part.scale[1], f"{name}.scale", "must be low, high above 0"),
            )
        ),
        (
            not config.augment.cool_down or config.schedule.cool_down > 0,
            "augment.cool_down",
            "needs schedule.cool_down above 0",
        ),
        (config.loss.points > 0, "loss.points", "must be above 0"),
        (config.loss.oversample >= 1, "loss.oversample", "must be 1 or more"),
        (0 <= config.loss.importance <= 1, "loss.importance", "must be in 0..1"),
        (
            0 < config.augment.single_category_max_area <= 1,
            "augment.single_category_max_area",
            "must be in 0..1, 0 excluded",
        ),
        (pixel is None or min(pixel.factors.values(), default=0) > 0, "loss.pixel", "must name a loss; none below 0"),
        (
            pixel is None or len(pixel.class_weights) in (0, classes),
            "loss.pixel.class_weights",
            f"must have {classes} entries, one for each class of {config.data.taxonomy}",
        ),
        (all(s.weight > 0 for s in config.data.train), "data.train.weight", "must be above 0"),
        (len(evaluated) == len(config.data.evaluate), "data.evaluate", "must give each set a name of its own"),
        (
            all((s.images is None) == (s.labels is None) == (s.street is not None) for s in sets),
            "data",
            "must name images and labels, or street, of each set",
        ),
        (all(0 <= s.seeds[0] <= s.seeds[1] for s in streets), "street.seeds", "must be first and last, from 0"),
        (all(0 < s.every <= s.frames for s in streets), "street.every", "must be in 1..street.frames"),
        (
            config.best_by in (None, "miou", "accuracy", *(["pq"] if config.data.panoptic else [])),
            "best_by",
            "must be miou, accuracy or, for data.panoptic, pq",
        ),
        (
            config.early_stopping == 0 or (config.early_stopping > 0 and bool(config.data.evaluate)),
            "early_stopping",
            "must be 0 or more, and needs data.evaluate",
        ),
        (min(config.log_every, config.save_every, config.evaluate_every) > 0, "…_every", "must be above 0"),
    )
    for holds, name, wrong in rules:
        if not holds:
            raise ConfigError(f"{path}: {name} {wrong}")


def _build(kind: Any, raw: Any, where: str) -> Any:
    """Turn parsed YAML into a value of the annotated type `kind`, naming the key that does not fit."""
    if dataclasses.is_dataclass(kind):
        if not isinstance(raw, dict):
            raise ConfigError(f"{where}: must be a mapping, not {raw!r}")
        hints = typing.get_type_hints(kind)
        fields = {f.name: f for f in dataclasses.fields(kind)}
        for key in raw:
            if key not in fields:
                raise ConfigError(f"{where}: unknown key {key!r}; known are {', '.join(fields)}")
        for name, f in fields.items():
            required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
            if required and name not in raw:
                raise ConfigError(f"{where}: key {name!r} is missing")
        return kind(**{key: _build(hints[key], value, f"{where}: {key}") for key, value in raw.items()})
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return None if raw is None else _build(arguments[0], raw, where)
    if origin is tuple:
        if not isinstance(raw, list):
            raise ConfigError(f"{where}: must be a list, not {raw!r}")
        if arguments[-1] is ...:
            arguments = arguments[:1] * len(raw)
        if len(raw) != len(arguments):
            raise ConfigError(f"{where}: must have {len(arguments)} entries, not {len(raw)}")
        return tuple(_build(a, value, f"{where}[{i}]") for i, (a, value) in enumerate(zip(arguments, raw, strict=True)))
    if kind is float and isinstance(raw, str):
        # YAML 1.1 reads 5e-4 as text.
        try:
            raw = float(raw)
        except ValueError:
            raise ConfigError(f"{where}: must be a number, not {raw!r}") from None
    fits = isinstance(raw, (int, float)) and math.isfinite(raw) if kind is float else isinstance(raw, kind)
    if not fits or (isinstance(raw, bool) and kind is not bool):
        raise ConfigError(f"{where}: must be {_NAMES[kind]}, not {raw!r}")
    return float(raw) if kind is float else raw


_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
