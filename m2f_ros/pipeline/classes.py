"""The classes of a model's labels."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from m2f_ros import taxonomy as taxonomies
from m2f_ros.errors import ConfigError

if TYPE_CHECKING:
    from m2f_ros.model import NetworkConfig


def taxonomy_of(model: str, config: NetworkConfig, wanted: str = "") -> taxonomies.Taxonomy:
    """Return the taxonomy of a model: the wanted one (a name or a YAML file), the checkpoint's, or one of its labels.

    model: name of the model for messages. Raises TaxonomyError if the taxonomy does not exist, ConfigError if its
    classes differ from the model's. Placeholder names of transformers (LABEL_0) match any class.
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
