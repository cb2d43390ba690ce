"""Builds the pipeline from the node's parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from m2f_ros.errors import ConfigError
from m2f_ros.node.parameters import NodeSettings, read_sizes
from m2f_ros.pipeline import Tuning
from m2f_ros.taxonomy import Taxonomy

if TYPE_CHECKING:
    from m2f_ros.pipeline import Pipeline


def load_pipeline(settings: NodeSettings) -> Pipeline:
    """Build the pipeline from the node's parameters, and the network for the sizes in `image_sizes`.

    Raises CheckpointError, TaxonomyError or ConfigError; see `build_pipeline`.
    """
    # Importing torch takes seconds; the topics need not wait for it.
    from m2f_ros.pipeline.build import PipelineSettings, build_pipeline
    from m2f_ros.pipeline.device import keep_freed_memory
    from m2f_ros.pipeline.resize import Resize
    from m2f_ros.pipeline.views import Views

    # Also on CUDA, for messages: freshly allocated memory costs a page fault per 4 KiB of each image.
    keep_freed_memory()
    sizes = read_sizes(settings.image_sizes)  # before the model, which takes long
    resize = Resize(
        settings.resize,
        shortest=settings.resize_shortest,
        longest=settings.resize_longest,
        height=settings.resize_height,
        width=settings.resize_width,
        max_pixels=settings.max_pixels or None,
        stride=1,
    )
    pipeline = build_pipeline(
        PipelineSettings(
            model=settings.model,
            taxonomy=settings.taxonomy,
            device=settings.device,
            precision=settings.precision,
            backend=settings.backend,
            graphs=settings.graphs,
            slots=settings.slots,
            threads=settings.threads,
            resize=resize,
            output_scale=settings.output_scale,
            smoothing=settings.smoothing,
            views=Views.parse(settings.tta, settings.windows, settings.window_overlap),
            track_by=settings.track_by,
        ),
        lambda taxonomy: tuning_of(settings, taxonomy),
    )
    for height, width in sizes:
        pipeline.warm_up(height, width)
    return pipeline


def tuning_of(settings: NodeSettings, taxonomy: Taxonomy) -> Tuning:
    """Return the settings that may change while frames flow. Raises ConfigError for an unknown class."""
    return Tuning(
        alpha=settings.alpha,
        hidden=_classes("hidden", settings.hidden, taxonomy),
        highlighted=_classes("highlighted", settings.highlighted, taxonomy),
        min_confidence=settings.min_confidence,
        score_threshold=settings.score_threshold,
        overlap_threshold=settings.overlap_threshold,
    )


def _classes(parameter: str, names: Sequence[str], taxonomy: Taxonomy) -> frozenset[int]:
    """Return the train ids of classes by name."""
    ids = {c.name: c.id for c in taxonomy.classes}
    for name in names:
        if name not in ids:
            raise ConfigError(f"parameter '{parameter}': there is no class {name!r}; there are {', '.join(ids)}")
    return frozenset(ids[name] for name in names)
