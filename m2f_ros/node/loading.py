"""From parameters to a pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING

from m2f_ros import taxonomy as taxonomies
from m2f_ros.errors import ConfigError
from m2f_ros.node.parameters import read_sizes
from m2f_ros.pipeline import Tuning
from m2f_ros.pipeline.classes import taxonomy_of

if TYPE_CHECKING:
    from m2f_ros.pipeline import Pipeline


def load_pipeline(settings: SimpleNamespace) -> Pipeline:
    """The pipeline that the node's parameters describe. Takes seconds, and minutes where a model is fetched.

    Raises CheckpointError, TaxonomyError or ConfigError for what cannot be.
    """
    # Importing torch takes seconds; the topics need not wait for it.
    import torch

    from m2f_ros.model import load
    from m2f_ros.pipeline import Pipeline, Resize
    from m2f_ros.pipeline.device import choose_device, keep_freed_memory, quickest_precision

    # For messages, too, whatever the device: memory that is given back and asked for again costs a page fault every
    # 4 KiB of each image.
    keep_freed_memory()
    sizes = read_sizes(settings.image_sizes)  # first: a model takes long
    if settings.threads:
        torch.set_num_threads(settings.threads)
    precision = settings.precision
    if precision == "auto":
        precision = quickest_precision(choose_device(settings.device), settings.backend)
    model = load(settings.model)
    taxonomy = taxonomy_of(settings.model, model.config, settings.taxonomy)
    pipeline = Pipeline(
        model,
        taxonomy,
        device=settings.device,
        precision=precision,
        backend=settings.backend,
        graphs=settings.graphs,
        slots=settings.slots,
        resize=Resize(
            settings.resize,
            shortest=settings.resize_shortest,
            longest=settings.resize_longest,
            height=settings.resize_height,
            width=settings.resize_width,
            max_pixels=settings.max_pixels or None,
        ),
        tuning=tuning_of(settings, taxonomy),
        output_scale=settings.output_scale,
        smoothing=settings.smoothing,
    )
    for height, width in sizes:
        pipeline.warm_up(height, width)
    return pipeline


def tuning_of(settings: SimpleNamespace, taxonomy: taxonomies.Taxonomy) -> Tuning:
    """What may change while frames flow. Raises ConfigError for a class that the model does not have."""
    return Tuning(
        alpha=settings.alpha,
        hidden=_classes("hidden", settings.hidden, taxonomy),
        highlighted=_classes("highlighted", settings.highlighted, taxonomy),
        min_confidence=settings.min_confidence,
        score_threshold=settings.score_threshold,
        overlap_threshold=settings.overlap_threshold,
    )


def _classes(parameter: str, names: Sequence[str], taxonomy: taxonomies.Taxonomy) -> frozenset[int]:
    """Train ids of classes by name."""
    ids = {c.name: c.id for c in taxonomy.classes}
    for name in names:
        if name not in ids:
            raise ConfigError(f"parameter '{parameter}': there is no class {name!r}; there are {', '.join(ids)}")
    return frozenset(ids[name] for name in names)
