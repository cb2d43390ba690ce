"""The files of a checkpoint folder: JSON, weights in one file or shards, and messages for other folders."""

from __future__ import annotations

import os
from pathlib import Path

from m2f_ros import documents
from m2f_ros.errors import CheckpointError, DocumentError, some

_WANTED = "a checkpoint holds config.json and its weights as model.safetensors or pytorch_model.bin"
EXPORTED = "m2f.yaml"  # describes a folder of m2f export, which m2f_ros.pipeline reads
_MOST_SHARDS = 1000
_POINTER = b"version https://git-lfs"
DETECTRON2 = (
    "holds Detectron2's weights: convert them with transformers' "
    "convert_mask2former_original_pytorch_checkpoint_to_pytorch.py, or name the same model on the Hugging Face hub"
)


def read_json(path: Path) -> dict:
    """Read a JSON object. Raises CheckpointError, in one line, for any other content."""
    try:
        content = documents.read_json(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist; {what_is_there(path.parent)}") from None
    except (OSError, DocumentError) as error:
        refuse_pointer(path)
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{path} cannot be read as JSON: {reason}; fetch it again") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a JSON object")
    return content


def weight_files(folder: Path) -> list[Path]:
    """Return the files of a checkpoint's weights, safetensors before .bin. Shards that an index names may be missing.
    Raises CheckpointError if there are no weights."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return [folder / name]
        if index.is_file():
            shards = read_json(index).get("weight_map")
            if not isinstance(shards, dict) or not shards or not all(map(_is_name, shards.values())):
                raise CheckpointError(f"{index} is no index of shards; fetch the checkpoint again")
            files = [folder / shard for shard in sorted(set(shards.values()))]
            if len(files) > _MOST_SHARDS:
                raise CheckpointError(f"{index} names {len(files)} shards, more than {_MOST_SHARDS}; fetch it again")
            for file in files:
                _refuse_link_out(file, index)
            return files
    raise CheckpointError(
        f"{folder} has no model.safetensors and no pytorch_model.bin, nor an index of shards; {what_is_there(folder)}"
    )


def _refuse_link_out(shard: Path, index: Path) -> None:
    """Raise CheckpointError if a shard is a link to a file outside the folder of the shard and of its index.

    The index itself may be a link: all files are links in the hub's cache and in a symlink install of colcon.
    """
    places = [os.path.realpath(index.parent), os.path.dirname(os.path.realpath(index))]
    file = os.path.realpath(shard)
    if os.path.dirname(file) not in places:
        raise CheckpointError(f"{shard} is a link out of its folder, to {file}; put the file itself there")


def is_complete(folder: Path) -> bool:
    """Return True if config.json and all files of weights exist."""
    try:
        return (folder / "config.json").is_file() and all(file.is_file() for file in weight_files(folder))
    except CheckpointError:
        return False


def refuse_pointer(path: Path) -> None:
    """Raise CheckpointError if a file is a Git LFS pointer."""
    if path.is_file():
        with path.open("rb") as file:
            if file.read(len(_POINTER)) == _POINTER:
                raise CheckpointError(
                    f"{path} is a Git LFS pointer, not the file itself: run 'git lfs pull' in the folder, or fetch the "
                    "file again"
                )


def what_is_there(folder: Path) -> str:
    """Describe the contents of a folder without a checkpoint, with advice."""
    files = sorted(path.name for path in folder.iterdir() if path.is_file())
    if EXPORTED in files:
        return "it holds an export, which can only be run: name the checkpoint that it was made of"
    inside = sorted(path.parent.name for path in folder.glob("*/config.json"))
    if inside:
        return f"name one of the checkpoints in it: {some([str(folder / name) for name in inside], most=4)}"
    if any(name.endswith(".pkl") for name in files):
        return f"the folder {DETECTRON2}"
    if "adapter_config.json" in files:
        return "it holds an adapter (PEFT): merge it into its base model and save that"
    weights = [name for name in files if name.endswith((".ckpt", ".pt", ".pth", ".bin", ".safetensors"))]
    if weights and set(weights) <= {"optimizer.pt", "optimizer.bin", "scheduler.pt", "training_args.bin"}:
        held = some(weights, most=4)
        return f"it holds the state of a training alone ({held}): name the folder with the model's weights"
    return f"{_WANTED}; the folder holds {some(files, most=4) if files else 'no file'}"


def what_is_file(path: Path) -> str:
    """Return advice for a path of a file in place of a folder."""
    if path.suffix == ".pkl":
        return f"it {DETECTRON2}"
    if (path.parent / "config.json").is_file():
        return f"name its folder, {path.parent}, which holds config.json and the weights"
    return _WANTED


def _is_name(value: object) -> bool:
    """Return True for a plain file name, without a folder."""
    return isinstance(value, str) and value.isprintable() and Path(value).name == value
