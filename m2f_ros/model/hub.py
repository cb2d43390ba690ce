"""Checkpoints of the Hugging Face hub, from its cache or downloaded."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path
from typing import TypeVar

from m2f_ros.errors import CheckpointError, some
from m2f_ros.model import preprocessor
from m2f_ros.model.layout import is_complete, weight_files

# Read when huggingface_hub is imported. Xet, its other protocol, has no timeouts that can be set.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")

T = TypeVar("T")
_PREPROCESSOR = (preprocessor.NESTED, preprocessor.VIDEO, preprocessor.FILE)
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def cached(name: str) -> Path | None:
    """Return the folder of a hub id in the cache if it has config.json and all weights. Opens no connection."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError:  # an invalid id, which `_fetch` reports
        return None
    folder = Path(found).parent if isinstance(found, str) else None
    return folder if folder and is_complete(folder) else None


def find(name: str) -> Path:
    """Return the folder of a hub id in the cache, after downloading missing files of the checkpoint from the top folder
    of the repository.

    A request times out after HF_HUB_ETAG_TIMEOUT seconds without an answer, or three times that with a slow one; a
    stalled download after six times HF_HUB_DOWNLOAD_TIMEOUT. Both are 10 by default. HF_HUB_OFFLINE forbids requests.

    Raises:
        CheckpointError: the checkpoint cannot be downloaded.
    """
    folder = cached(name)
    if folder and any((folder / file).is_file() for file in _PREPROCESSOR):
        return folder
    try:
        return _fetch(name)
    except CheckpointError:
        if folder:  # complete; the optional preprocessor's file may be missing
            return folder
        raise


def _fetch(name: str) -> Path:
    # Imported here, since the import is slow, and folders do not need it.
    from huggingface_hub import HfApi, constants, hf_hub_download
    from huggingface_hub.errors import RepositoryNotFoundError

    where = f"model {name!r} is not a folder here and"
    if constants.HF_HUB_OFFLINE:
        raise CheckpointError(f"{where} not whole in the cache of the Hugging Face hub, and HF_HUB_OFFLINE is set")
    seconds = constants.HF_HUB_ETAG_TIMEOUT
    try:
        info = _within(3 * seconds, partial(HfApi().model_info, name, timeout=seconds))
        there = sorted(file.rfilename for file in info.siblings or () if "/" not in file.rfilename)
        weights = next((file for file in _WEIGHTS if file in there), None)
        if "config.json" not in there or weights is None:
            raise CheckpointError(
                f"model {name!r} of the Hugging Face hub has no config.json with weights as {_WEIGHTS[0]} or "
                f"{_WEIGHTS[2]} in its top folder, but {some(there, most=4) or 'no file'}; name another"
            )
        fetch = partial(hf_hub_download, name, etag_timeout=seconds)
        # Without a revision, so that the cache records the newest one.
        folder = Path(fetch("config.json")).parent
        fetch = partial(fetch, revision=info.sha)
        for file in (*_PREPROCESSOR, weights):
            if file in there:
                fetch(file)
        for path in weight_files(folder):
            fetch(path.name)
        return folder
    except CheckpointError:
        raise
    except RepositoryNotFoundError:
        raise CheckpointError(
            f"{where} the Hugging Face hub has no such model, or it is private or gated: 'hf auth login' gives access"
        ) from None
    except Exception as error:  # the HTTP client's errors differ between versions
        reason = str(error.__cause__ or error).splitlines()
        raise CheckpointError(
            f"{where} could not be had from {constants.ENDPOINT}: {reason[0] if reason else type(error).__name__}; "
            "a folder, or a model that is in the cache, needs no network"
        ) from None


def _within(seconds: float, call: Callable[[], T]) -> T:
    """Return the result of a call. Raises TimeoutError if it takes longer than `seconds`.

    The HTTP client has timeouts for its own steps, but not for the DNS lookup.
    """
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    wait([future], seconds)
    if not future.done():
        raise TimeoutError(f"no whole answer within {seconds} s")
    return future.result()
