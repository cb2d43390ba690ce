"""The facts about a checkpoint that cannot be measured: card.yaml in its folder.

    name: street                       # else the checkpoint's
    summary: A small Mask2Former for street scenes.
    licence: {id: cc-by-nc-4.0, text: 'Research only: CamVid is CC BY-NC 4.0.'}   # id as the hub has it
    data:                              # trained on
      - {name: CamVid, id: camvid, licence: CC BY-NC 4.0, text: 'train split, 367 images'}
    training: Made by `make train`.
    use: [Research on street scenes.]
    not_for: [Whatever moves by itself.]
    failures: [Real trucks are taken for cars.]          # known, beside what the figures show
    evaluations:
      - title: CamVid, validation split
        id: camvid                     # of the data, as the hub has it, and split: for the page's metadata
        split: val
        result: ../docs/camvid_val.json                  # result.json of m2f eval, or its folder
        command: m2f replay …                            # that made it, a line each; `m2f card --commands` prints them
        text: It flatters.
        model: out/held_out/model      # that was scored, where it is another: trained without these images, for one.
                                       # It is not in the metadata, and its command is for the page alone
    benchmarks: ../docs/benchmarks     # folder of what m2f bench wrote

Every key may be left out, but result of an evaluation. Paths are relative to the file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from m2f_ros.documents import read_yaml
from m2f_ros.errors import ConfigError, DocumentError
from m2f_ros.typed import as_type

FILE = "card.yaml"
_ZOO = "facebook/mask2former-"


@dataclass(frozen=True)
class Licence:
    """A licence. id: the Hugging Face hub's name for it ("apache-2.0"). text: its reason, and the uses it allows."""

    id: str = ""
    text: str = ""


@dataclass(frozen=True)
class DataSet:
    """A data set of the training. id: the hub's name for it. text: the part that was used, and its source."""

    name: str = ""
    id: str = ""
    licence: str = ""
    text: str = ""


@dataclass(frozen=True)
class Evaluation:
    """An entry of `evaluations`, see the module. result: path relative to the card.yaml."""

    result: str
    title: str = ""
    id: str = ""
    split: str = ""
    command: str = ""
    text: str = ""
    model: str = ""


@dataclass(frozen=True)
class _File:
    """The keys of a card.yaml, see the module."""

    name: str = ""
    summary: str = ""
    licence: Licence = Licence()
    data: list[DataSet] = field(default_factory=list)
    training: str = ""
    use: list[str] = field(default_factory=list)
    not_for: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    benchmarks: str = ""


@dataclass(frozen=True)
class About(_File):
    """A card.yaml and the folder it lies in, to which its paths are relative."""

    folder: Path = Path()


def read_about(path: Path) -> About:
    """Read a card.yaml. Raises ConfigError where it cannot be read, or has a key or a type that it must not have."""
    try:
        content = as_type(_stripped(read_yaml(path) or {}), _File, by_hand=True)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except DocumentError as error:
        raise ConfigError(f"{path}: {error}") from None
    # An installation may hold a link to the file of a checkout.
    return About(**vars(content), folder=path.resolve().parent)


def _stripped(value: Any) -> Any:
    """The value, its texts without the space around them."""
    if isinstance(value, dict):
        return {key: _stripped(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_stripped(inner) for inner in value]
    return value.strip() if isinstance(value, str) else value


def unwritten(checkpoint: str) -> About:
    """The facts about a checkpoint without a card.yaml: the published ones are under the model zoo's licence."""
    if not checkpoint.startswith(_ZOO):
        return About()
    return About(
        name=checkpoint,
        licence=Licence(
            "cc-by-nc-4.0", "The weights of the Mask2Former model zoo are CC BY-NC 4.0: no commercial use."
        ),
    )
