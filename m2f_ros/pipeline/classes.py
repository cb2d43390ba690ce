"""The classes of a model's labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from m2f_ros import taxonomy as taxonomies
from m2f_ros.errors import ConfigError

if TYPE_CHECKING:
    from m2f_ros.model import ModelConfig


def taxonomy_of(model: str, config: ModelConfig, wanted: str = "") -> taxonomies.Taxonomy:
    """The classes of a model: those wanted (a name or a YAML file), or as its config.json says.

    Raises TaxonomyError when there is no such taxonomy, ConfigError when its number of classes is another.
    """
    name = wanted or config.taxonomy
    if not name:
        return taxonomies.match(config.labels) or taxonomies.from_names(model, config.labels)
    found = taxonomies.get(name)
    if len(found.classes) != config.num_classes:
        raise ConfigError(
            f"taxonomy '{name}' has {len(found.classes)} classes, model '{model}' has {config.num_classes}: "
            "set the parameter 'taxonomy' to the one that the model was trained on"
        )
    return found
