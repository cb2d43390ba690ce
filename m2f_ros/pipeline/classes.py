"""The classes of a model's labels."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from m2f_ros import taxonomy as taxonomies
from m2f_ros.errors import ConfigError

if TYPE_CHECKING:
    from m2f_ros.model import NetworkConfig


def taxonomy_of(model: str, config: NetworkConfig, wanted: str = "") -> taxonomies.Taxonomy:
    """The classes of a model: those wanted (a name or a YAML file), else those that it carries, else by its labels.

    model: its name, for messages. Raises TaxonomyError when there is no such taxonomy, ConfigError when its classes are
    others than the model's. Names that transformers makes up (LABEL_0) may be any.
    """
    if not wanted:
        return config.taxonomy or taxonomies.of_labels(model, config.labels)
    found = taxonomies.get(wanted)
    made_up = all(re.fullmatch(r"LABEL_\d+", name) for name in config.labels)
    reason = taxonomies.difference(found, config.labels)
    if reason and not (made_up and len(found.classes) == config.num_classes):
        raise ConfigError(
            f"taxonomy {wanted!r} is not that of model {model!r}: {reason}; leave it out, or give the one that the "
            "model was trained on (another name for a class goes under its aliases)"
        )
    return found
