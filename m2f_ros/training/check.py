"""The data of a run, looked at before its first step: what would end it later, and what it cannot teach or score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from m2f_ros.errors import TrainingError
from m2f_ros.processes.workers import available_cores
from m2f_ros.taxonomy import Taxonomy, merge_table
from m2f_ros.training.data import Samples
from m2f_ros.training.distributed import Group
from m2f_ros.training.sets import DataSet, LabelledFolder

# Label files of a set to train on that are looked at, from all over it; of a set to score on all are.
LOOKED_AT = 5000
_NAMED = 12


def check_data(
    samples: Samples, sets: Sequence[DataSet], group: Group, progress: bool, say: Callable[[str], object] = print
) -> None:
    """Read labels to train on, and images with labels to score on; simulated streets are taken as they are.

    sets: to score on. say: is told, a line each, of classes that no label has, and of labels of one class alone.

    Raises:
        TrainingError, LabelError: a file is damaged, sizes differ, or an id is outside the taxonomy; or none of a set's
            labels is of a class of the model.
        TaxonomyError: no class of the model corresponds to one of a set to score on.
    """
    taxonomy, panoptic = samples.taxonomy, samples.config.data.panoptic
    taught = np.zeros(taxonomy.unlabelled + 1, bool)
    looked_at, files = 0, 0
    for part, merge in zip(samples.sets, samples.merges, strict=True):
        if isinstance(part, LabelledFolder):
            indices = np.unique(np.linspace(0, len(part) - 1, LOOKED_AT).round().astype(int)).tolist()
            seen = _seen(part.read_labels, indices, part, group, progress)
            found = np.zeros_like(taught)
            found[merge[seen]] = True
            _judge(found, part.name, taxonomy, say)
            lost = [c.name for c in part.taxonomy.classes if c.id in seen and merge[c.id] == taxonomy.unlabelled]
            if lost:
                say(f"data set {part.name!r}: the model has no class for {_listed(lost)}: unlabelled to it")
            taught |= found
            looked_at, files = looked_at + len(indices), files + len(part)
    if looked_at:
        where = "the labels to train on" if looked_at == files else f"{looked_at} of the {files} labels to train on"
        if any(not isinstance(part, LabelledFolder) for part in samples.sets):
            where += ", streets apart"
        if missing := [c.name for c in taxonomy.classes if not taught[c.id]]:
            say(f"{len(missing)} of the {len(taxonomy.classes)} classes never occur in {where}: {_listed(missing)}")
    for data in sets:
        reachable = merge_table(taxonomy, data.taxonomy)
        if not isinstance(data, LabelledFolder):
            continue

        def read(index: int, data: LabelledFolder = data) -> np.ndarray:
            return data.read_segments(index)[1].labels if panoptic else data.read(index)[1]

        seen = np.zeros(data.taxonomy.unlabelled + 1, bool)
        seen[_seen(read, range(len(data)), data, group, progress)] = True
        _judge(seen, data.name, data.taxonomy, say)
        missing = [c.name for c in data.taxonomy.classes if not seen[c.id]]
        if missing:
            say(
                f"data set {data.name!r}: {len(missing)} of its {len(data.taxonomy.classes)} classes never occur, of "
                f"which its scores say nothing: {_listed(missing)}"
            )
        unknown = [c.name for c in data.taxonomy.classes if seen[c.id] and c.id not in reachable]
        if unknown:
            say(f"data set {data.name!r}: the model has no class for {_listed(unknown)}, and is wrong wherever it is")


def _seen(
    read: Callable[[int], np.ndarray], indices: Sequence[int], data: DataSet, group: Group, progress: bool
) -> np.ndarray:
    """Train ids, unlabelled among them, in the labels that `read` gives for these; the group's processes share them."""

    def ids(index: int) -> np.ndarray:
        there = np.zeros(data.taxonomy.unlabelled + 1, bool)
        there[read(index)] = True
        return np.flatnonzero(there)

    seen: set[int] = set()
    mine = indices[group.rank :: group.size]
    pool = ThreadPoolExecutor(min(8, available_cores()))
    try:
        for found in tqdm(
            pool.map(ids, mine), f"looking at {data.name}", len(mine), leave=False, unit="label", disable=not progress
        ):
            seen.update(found.tolist())
    finally:
        pool.shutdown(cancel_futures=True)  # after an error the rest is not read
    return np.array(sorted(set().union(*group.gather(seen))), np.int64)


def _judge(seen: np.ndarray, name: str, taxonomy: Taxonomy, say: Callable[[str], object]) -> None:
    """Refuse a set of which nothing is labelled, and say where all is of one class."""
    found = [c.name for c in taxonomy.classes if seen[c.id]]
    if not found:
        raise TrainingError(
            f"data set {name!r}: nothing in it is labelled as a class of {taxonomy.name}; is its taxonomy the right "
            "one, and data.taxonomy?"
        )
    if len(found) == 1:
        say(f"data set {name!r}: all that is labelled in it is {found[0]!r}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
