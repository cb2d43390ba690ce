"""Checkpoints of the Hugging Face hub: from its cache where they are whole there, else fetched."""

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

# Read when huggingface_hub is imported. Xet, its other way to fetch, has no time limits that could be set.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")

T = TypeVar("T")
_PREPROCESSOR = (preprocessor.NESTED, preprocessor.FILE)
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def cached(name: str) -> Path | None:
    """The folder of a hub id in the cache, where config.json and all weights are in it. No connection is opened."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError:  # no id; `_fetch` says why
        return None
    folder = Path(found).parent if isinstance(found, str) else None
    return folder if folder and is_complete(folder) else None


def find(name: str) -> Path:
    """The folder of a hub id in the cache. Files that are missing there are fetched first: those of a checkpoint in the
    top folder of the repository, and no others.

    A request that is not answered is given up after HF_HUB_ETAG_TIMEOUT seconds, one that is answered bit by bit after
    three times that, a download that stands still after six times HF_HUB_DOWNLOAD_TIMEOUT; both are 10 by default. With
    HF_HUB_OFFLINE no request is made.

    Raises:
        CheckpointError: it could not be had.
    """
    folder = cached(name)
    if folder and any((folder / file).is_file() for file in _PREPROCESSOR):
        return folder
    try:
        return _fetch(name)
    except CheckpointError:
        if folder:  # complete but for the preprocessor's file, which not every checkpoint has
            return folder
        raise


def _fetch(name: str) -> Path:
    # Imported here: a folder needs no hub, and the import takes a while.
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
        # Without a revision: so the cache notes which one is the newest.
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
    except Exception as error:  # the errors of the client below differ between its versions
        reason = str(error.__cause__ or error).splitlines()
        raise CheckpointError(
            f"{where} could not be had from {constants.ENDPOINT}: {reason[0] if reason else type(error).__name__}; "
            "a folder, or a model that is in the cache, needs no network"
        ) from None


def _within(seconds: float, call: Callable[[], T]) -> T:
    """The result of a call. Raises TimeoutError where it takes longer.

    The client itself limits the time of its steps, and not that of looking up a name.
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
