"""The YAML file of a training run, read into dataclasses with each key and value checked."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from m2f_ros import taxonomy as taxonomies
from m2f_ros.documents import read_yaml
from m2f_ros.errors import ConfigError, DocumentError, TaxonomyError
from m2f_ros.training.losses import LossConfig
from m2f_ros.typed import From0, From1, Number, NumberAbove0, as_type, shown


@dataclass(frozen=True)
class NetworkConfig:
    """Shape of the network, in the names of m2f_ros.model.ModelConfig, and the weights it starts from."""

    # Instead of all the shape below, a network that classifies pixels, and starts anew; `weights` then is for its
    # encoder alone. A network of transformers has keys of config.json, {model_type: segformer, depths: [2, 2, 2, 2]};
    # one of torchvision and segmentation_models.pytorch a name, {torchvision: deeplabv3_mobilenet_v3_large}, or
    # {smp: Unet/tu-tf_efficientnet_lite2, decoder_channels: [256, 128, 64, 32, 16]} with the constructor's arguments.
    network: dict[str, Any] | None = None
    backbone: str = "efficientnet_lite2"  # or efficientnet_lite0, _lite1, swin-tiny, -small, -base, -large
    hidden_dim: int = 128
    heads: int = 8
    encoder_layers: int = 2
    encoder_ffn: int = 512
    # Convolves the mask features at stride 4 with an eighth of the work; transformers has no such network.
    separable_output: bool = False
    decoder_layers: int = 4
    decoder_ffn: int = 512
    # None: 32, or as many as `weights` has. With another number than the checkpoint's, the queries start anew.
    num_queries: int | None = None
    # Pixels to which smaller images are enlarged, and larger ones shrunk, in use. None: never, or as `weights` has it.
    min_pixels: int | None = None
    max_pixels: int | None = None
    # imagenet: the backbone alone, of an EfficientNet-Lite. A folder or file relative to the config, a shipped model, a
    # hub id, or a name such as smp:Unet/resnet34:FILE: all weights, and the checkpoint's shape; its class layer where
    # data.taxonomy is the checkpoint's.
    weights: str | None = None
    freeze: Literal["none", "backbone", "all_but_class_layer"] = "none"  # what does not learn


@dataclass(frozen=True)
class StreetConfig:
    """Simulated streets; each frame is drawn when it is needed."""

    seeds: tuple[int, int] = (0, 99)  # first and last, one street each
    frames: int = 300  # length of a drive
    every: int = 15  # one frame of so many
    size: tuple[int, int] = (640, 480)  # width, height


@dataclass(frozen=True)
class DataSetConfig:
    """Images and labels in one of the conventions of m2f_ros.datasets, or streets."""

    name: str
    images: str | None = None  # folder, relative to root
    labels: str | None = None  # folder, or JSON of COCO's panoptic or instance format
    street: StreetConfig | None = None  # in place of the two
    root: str | None = None  # data.root where it is not given; relative to the config file
    taxonomy: str | None = None  # of the ids in the label files, merged into the model's; none: guessed from names, ids
    weight: NumberAbove0 = 1.0  # share of the training samples drawn from this set
    only: tuple[str, ...] = ()  # prefixes of file names; empty: all
    exclude: tuple[str, ...] = ()  # prefixes of file names left out


@dataclass(frozen=True)
class DataConfig:
    """Where the samples come from."""

    train: Annotated[tuple[DataSetConfig, ...], Meta(min_length=1)]
    evaluate: tuple[DataSetConfig, ...] = ()
    root: str = "."  # relative to the config file; --data replaces it
    taxonomy: str = "cityscapes"  # the model's classes
    panoptic: bool = False  # things one by one; those that a data set does not tell apart are taken for unlabelled
    workers: From0 = 2  # processes that load and augment


@dataclass(frozen=True)
class CoolDownConfig:
    """Values that replace those of the same keys of AugmentConfig over schedule.cool_down.

    In use a network sees whole images, in training crops of another scale; some steps on larger crops at the scale of
    use adapt it. (Touvron et al. 2019, https://arxiv.org/abs/1906.06423)
    """

    crop: tuple[int, int]
    scale: tuple[Number, Number]


@dataclass(frozen=True)
class AugmentConfig:
    """Ranges are uniform; see m2f_ros.training.augment."""

    crop: tuple[int, int] = (320, 256)  # width, height; multiples of 32
    scale: tuple[Number, Number] = (0.5, 2.0)  # of the image, drawn log-uniformly
    # Large-scale jitter (Ghiasi et al. 2021; theirs with scale: [0.1, 2.0]): scale is of the largest size that fits
    # into the crop, and drawn uniformly.
    large_scale_jitter: bool = False
    rare_class: Number = 0.5  # chance that the crop lies around a pixel of a class drawn evenly
    # A crop of which one class has this share or more is drawn again, ten times at most, as upstream does; 1: never.
    single_category_max_area: Annotated[float, Meta(gt=0, le=1)] = 1.0
    smallest_thing: int = 0  # things of fewer pixels in the crop are unlabelled; see data.panoptic
    flip: Number = 0.5
    brightness: Number = 0.3
    contrast: Number = 0.3
    saturation: Number = 0.4
    hue: Number = 0.03
    gamma: Number = 0.3
    blur: Number = 0.1  # chances
    noise: Number = 0.15
    jpeg: Number = 0.15
    cool_down: CoolDownConfig | None = None


@dataclass(frozen=True)
class ScheduleConfig:
    """Optimiser and its course over the steps."""

    steps: From1 = 20000
    stop: From0 = 0  # steps after which the run ends, where that is before the schedule does; 0: with the schedule
    batch: From1 = 4  # images of a step, all processes together
    accumulate: From1 = 1  # parts of it that go through the network one after the other: less memory, the same numbers
    rate: NumberAbove0 = 5e-4
    backbone_rate: Number = 0.2  # factor on rate
    weight_decay: Number = 0.05
    warm_up: int = 500  # steps of linear rise
    decay: Literal["poly", "cosine", "step", "none"] = "poly"  # poly: power 0.9
    milestones: tuple[int, ...] = ()  # steps after each of which decay: step multiplies the rate
    gamma: NumberAbove0 = 0.1  # by this
    # The last steps of the run, over which the rate falls to 0 from what decay makes of it: ends a run well at any
    # step (Hägele et al. 2024, https://arxiv.org/abs/2405.18392).
    cool_down: int = 0
    clip: Number = 1.0  # largest norm of all gradients together; 0: none
    # Decay of the moving average of the weights; the average is evaluated and kept.
    average: Annotated[float, Meta(ge=0, lt=1)] = 0.999
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
    # Autocast of the network; the loss stays fp32, and fp16 scales the gradients.
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    kept_as: Literal["fp32", "fp16"] = "fp32"  # dtype of the weights in model/; fp16: files of half the size
    threads: int = 0  # of the main process on a CPU; 0: torch's choice
    log_every: From1 = 20  # steps
    save_every: From1 = 500
    evaluate_every: From1 = 2000
    # Which model is the best: by the mean over data.evaluate of miou, accuracy or pq; none: miou, pq for data.panoptic.
    best_by: Literal["miou", "accuracy", "pq"] | None = None
    early_stopping: From0 = 0  # evaluations without a better score after which the run ends; 0: with the schedule alone
    tensorboard: bool = False  # losses, scores and pictures in the run's folder tensorboard/ too


def load_config(path: Path, data_root: str | None = None) -> TrainConfig:
    """Read a run's YAML; folders come back absolute. data_root replaces data.root.

    Raises:
        ConfigError: the file is missing or no YAML, a key unknown or missing, a value of wrong type or range.
    """
    path = Path(path)
    try:
        config = as_type(read_yaml(path), TrainConfig, by_hand=True)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; name a training config, config/train_street.yaml for one") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except DocumentError as error:
        raise ConfigError(f"{path}: {error}") from None
    _check(config, path)
    root = Path(data_root) if data_root is not None else path.parent / config.data.root

    def absolute(part: DataSetConfig) -> DataSetConfig:
        base = root if part.root is None else path.parent / part.root
        return dataclasses.replace(
            part,
            root=str(base.resolve()),
            taxonomy=part.taxonomy and _beside(path, part.taxonomy),
            images=part.images and str((base / part.images).resolve()),
            labels=part.labels and str((base / part.labels).resolve()),
        )

    data = dataclasses.replace(
        config.data,
        root=str(root.resolve()),
        taxonomy=_beside(path, config.data.taxonomy),
        train=tuple(map(absolute, config.data.train)),
        evaluate=tuple(map(absolute, config.data.evaluate)),
    )
    model = config.model
    # "smp:Unet/resnet34:FILE" ends in a file, too.
    library, colon, place = (model.weights or "").rpartition(":")
    if place and (path.parent / place).exists():
        model = dataclasses.replace(model, weights=f"{library}{colon}{(path.parent / place).resolve()}")
    return dataclasses.replace(config, data=data, model=model)


def inputs_of(config: TrainConfig) -> list[str | None]:
    """Files and folders that the run reads, among them names that are none."""
    sets = (*config.data.train, *config.data.evaluate)
    read = [place for part in sets for place in (part.images, part.labels, part.taxonomy)]
    return [config.data.taxonomy, (config.model.weights or "").rpartition(":")[2] or None, *read]


def _beside(path: Path, taxonomy: str) -> str:
    """Absolute where it is a file, whose name is relative to that of the config at `path`."""
    file = path.parent / taxonomy
    return str(file.resolve()) if file.is_file() else taxonomy


def _check(config: TrainConfig, path: Path) -> None:
    schedule, pixel, data = config.schedule, config.loss.pixel, config.data
    unread = [
        part.name
        for part in dataclasses.fields(NetworkConfig)
        if config.model.network is not None
        and part.name not in ("network", "weights", "freeze", "min_pixels", "max_pixels")
        and getattr(config.model, part.name) != part.default
    ]
    sets = {f"data.{key}[{i}]": part for key in ("train", "evaluate") for i, part in enumerate(getattr(data, key))}
    streets = {name: part.street for name, part in sets.items() if part.street}
    evaluated = [part.name for part in data.evaluate]
    try:
        classes = len(taxonomies.get(_beside(path, data.taxonomy)).classes)
    except TaxonomyError as error:
        raise ConfigError(f"{path}: data.taxonomy: {error}") from None
    augmented = {"augment": config.augment, "augment.cool_down": config.augment.cool_down}
    cropped = {name: part for name, part in augmented.items() if part}
    # (holds, key, rule, value found)
    rules: tuple[tuple[bool, str, str, Any], ...] = (
        *(
            (
                all(side > 0 and side % 32 == 0 for side in part.crop),
                f"{name}.crop",
                "must be multiples of 32 above 0",
                part.crop,
            )
            for name, part in cropped.items()
        ),
        *(
            (0 < part.scale[0] <= part.scale[1], f"{name}.scale", "must be low, high above 0", part.scale)
            for name, part in cropped.items()
        ),
        (
            (schedule.decay == "step") == bool(schedule.milestones)
            and list(schedule.milestones) == sorted(set(schedule.milestones)),
            "schedule.milestones",
            "must be rising steps, and there for decay: step alone",
            schedule.milestones,
        ),
        (
            0 <= schedule.cool_down <= schedule.end,
            "schedule.cool_down",
            f"must be in 0..steps of the run ({schedule.end})",
            schedule.cool_down,
        ),
        (
            schedule.batch % schedule.accumulate == 0,
            "schedule.accumulate",
            f"must divide schedule.batch ({schedule.batch})",
            schedule.accumulate,
        ),
        (
            not config.augment.cool_down or schedule.cool_down > 0,
            "augment.cool_down",
            "needs schedule.cool_down above 0",
            schedule.cool_down,
        ),
        (not unread, "model.network", "has the whole shape; leave out the other keys of it", unread),
        (
            pixel is None or min(pixel.factors.values(), default=0) > 0,
            "loss.pixel",
            "must name a loss; none below 0",
            pixel and pixel.factors,
        ),
        (
            pixel is None or len(pixel.class_weights) in (0, classes),
            "loss.pixel.class_weights",
            f"must have {classes} entries, one for each class of {data.taxonomy}",
            pixel and len(pixel.class_weights),
        ),
        (
            len(config.loss.class_weights) in (0, 0 if pixel else classes),
            "loss.class_weights",
            "belongs into loss.pixel here" if pixel else f"must have {classes} entries, one for each class",
            len(config.loss.class_weights),
        ),
        (len(set(evaluated)) == len(evaluated), "data.evaluate", "must give each set a name of its own", evaluated),
        *(
            (
                (part.images is None) == (part.labels is None) == (part.street is not None),
                name,
                "must name images and labels, or street",
                {key: value for key in ("images", "labels", "street") if (value := getattr(part, key)) is not None},
            )
            for name, part in sets.items()
        ),
        *(
            rule
            for name, street in streets.items()
            for rule in (
                (
                    0 <= street.seeds[0] <= street.seeds[1],
                    f"{name}.street.seeds",
                    "must be first and last, from 0",
                    street.seeds,
                ),
                (
                    0 < street.every <= street.frames,
                    f"{name}.street.every",
                    f"must be in 1..street.frames ({street.frames})",
                    street.every,
                ),
            )
        ),
        (
            config.best_by != "pq" or data.panoptic,
            "best_by",
            "must be miou or accuracy; pq needs data.panoptic",
            config.best_by,
        ),
        (
            config.early_stopping == 0 or bool(data.evaluate),
            "early_stopping",
            "needs data.evaluate",
            config.early_stopping,
        ),
    )
    for holds, key, rule, found in rules:
        if not holds:
            raise ConfigError(f"{path}: {key} {rule}, found {shown(found)}")
