"""Chooses the classes in which ground truth and predictions are compared, and maps both to them.

By default these are the classes of the ground truth, if the predictions' taxonomy maps to them (`merge_into`, see
m2f_ros.taxonomy); else the classes of the predictions, if the ground truth's taxonomy maps to them; else the classes of
the ground truth, matched by name. A YAML file chooses others: another taxonomy, or a map of new classes,

    name: coarse
    classes:
      ground: [road, sidewalk]      # of the ground truth and of the predictions
      vehicle: [car, truck, bus]

Classes of the ground truth that are in no list are not scored; predictions of such classes are wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from m2f_ros import taxonomy as taxonomies
from m2f_ros.documents import read_yaml
from m2f_ros.errors import DocumentError, EvaluationError, TaxonomyError
from m2f_ros.frame.segment import Segment
from m2f_ros.taxonomy import ClassInfo, Taxonomy


@dataclass(frozen=True)
class Mapping:
    """Maps train ids of one taxonomy to those of another.

    Attributes:
        table: new id by old id, (256,) or (65536,), see taxonomy.merge_table.
        target: taxonomy of the new ids.
    """

    table: np.ndarray
    target: Taxonomy

    def labels(self, labels: np.ndarray) -> np.ndarray:
        """Map labels (H, W); returns the target's dtype."""
        return look_up(self.table, labels)

    def segments(self, segments: Iterable[Segment]) -> list[Segment]:
        """Map segments. One without a class in the target gets `unlabelled`, which the metrics leave out."""
        nothing = self.target.unlabelled
        known = range(len(self.table))
        return [s._replace(train_id=int(self.table[s.train_id]) if s.train_id in known else nothing) for s in segments]


@dataclass(frozen=True)
class Classes:
    """The classes of an evaluation.

    Attributes:
        taxonomy: classes that are scored.
        truth, prediction: mappings to them.
    """

    taxonomy: Taxonomy
    truth: Mapping
    prediction: Mapping

    @property
    def unpredicted(self) -> list[str]:
        """Names of the classes that no predicted class maps to: their scores can only be 0."""
        ids = np.setdiff1d(self.truth.table, np.append(self.prediction.table, self.taxonomy.unlabelled))
        return [self.taxonomy.names[i] for i in ids]


def choose(truth: Taxonomy, prediction: Taxonomy, spec: str | None = None) -> Classes:
    """Choose the classes, see the docstring of this module.

    spec: name of a taxonomy, or YAML file of a taxonomy or a map; None: the default.

    Raises TaxonomyError where nothing corresponds, or the file is wrong, and EvaluationError where ground truth and
    predictions have no class in common.
    """
    classes = _choose(truth, prediction, spec)
    shared = np.intersect1d(classes.truth.table, classes.prediction.table)
    if not (shared != classes.taxonomy.unlabelled).any():
        raise EvaluationError(
            f"not comparable: no class of {prediction.name}, that of the predictions, goes into a class of the ground "
            f"truth ({truth.name}), scored in {classes.taxonomy.name}; give --classes FILE.yaml"
        )
    return classes


def _choose(truth: Taxonomy, prediction: Taxonomy, spec: str | None) -> Classes:
    if spec is not None:
        merges = None if spec in taxonomies.BUILTIN else _read_map(Path(spec))
        if merges is not None:
            return _by_map(truth, prediction, merges, Path(spec))
        target = taxonomies.get(spec)
    elif truth.name not in prediction.merge_into and prediction.name in truth.merge_into:
        target = prediction
    else:
        target = truth
    mappings = [Mapping(taxonomies.merge_table(source, target), target) for source in (truth, prediction)]
    return Classes(target, *mappings)


def look_up(table: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """table[labels] for a table of 256 or 65536; OpenCV is faster than NumPy where it can."""
    if labels.dtype == np.uint8 and table.dtype == np.uint8:
        return cv2.LUT(labels, table[:256])
    return table[labels]


def _read_map(path: Path) -> dict | None:
    """Read {"name", "classes"} of a map of classes; None for any other file, which taxonomies.get judges."""
    try:
        content = read_yaml(path)
    except (OSError, DocumentError):
        return None
    return content if isinstance(content, dict) and isinstance(content.get("classes"), dict) else None


def _by_map(truth: Taxonomy, prediction: Taxonomy, content: dict, path: Path) -> Classes:
    known = {c.name: c for taxonomy in (prediction, truth) for c in taxonomy.classes}
    new_of: dict[str, str] = {}
    rows: list[ClassInfo] = []
    for name, members in content["classes"].items():
        members = [members] if isinstance(members, str) else members
        if not isinstance(members, list) or not members or not all(isinstance(m, str) for m in members):
            raise TaxonomyError(f"{path}: classes.{name}: expected a list of class names, found {members!r}")
        for member in members:
            if member not in known:
                raise TaxonomyError(
                    f"{path}: classes.{name}: neither {truth.name} nor {prediction.name} has a class {member!r}; "
                    f"there is {', '.join(known)}"
                )
            if new_of.setdefault(member, str(name)) != str(name):
                raise TaxonomyError(f"{path}: {member!r} is in two classes, {new_of[member]} and {name}")
        infos = [known[member] for member in members]
        rows.append(ClassInfo(len(rows), str(name), infos[0].colour, all(info.thing for info in infos)))
    if not rows:
        raise TaxonomyError(f"{path}: classes: there are none")
    target = Taxonomy(str(content.get("name", path.stem)), tuple(rows))
    ids = {c.name: c.id for c in rows}
    mappings = []
    for source, what in ((truth, "ground truth"), (prediction, "predictions")):
        table = np.full(source.unlabelled + 1, target.unlabelled, target.dtype)
        for c in source.classes:
            if c.name in new_of:
                table[c.id] = ids[new_of[c.name]]
        if (table == target.unlabelled).all():
            raise TaxonomyError(f"{path}: no class in it is one of {source.name}, that of the {what}")
        mappings.append(Mapping(table, target))
    return Classes(target, *mappings)
