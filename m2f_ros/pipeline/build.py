"""Builds a pipeline from the name of a model, for the node, replays and tools."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from m2f_ros.errors import ConfigError
from m2f_ros.model import load, may_take_eight_bits
from m2f_ros.pipeline.backends.exported import BACKENDS, Exported
from m2f_ros.pipeline.classes import taxonomy_of
from m2f_ros.pipeline.device import choose_device, quickest_precision
from m2f_ros.pipeline.exported import Export, is_export
from m2f_ros.pipeline.pipeline import Pipeline
from m2f_ros.pipeline.resize import Resize
from m2f_ros.pipeline.tuning import Tuning
from m2f_ros.pipeline.views import WHOLE, Views
from m2f_ros.taxonomy import Taxonomy


@dataclass(frozen=True)
class PipelineSettings:
    """Settings of a pipeline that never change.

    Attributes:
        model: name of a shipped model, folder of a checkpoint or of an export, Hugging Face hub id, or a file that
            others made, such as onnx:FILE.
        taxonomy: name or YAML file of the model's classes; "" for the checkpoint's own.
        precision: "auto" for the fastest one; else see `Pipeline`.
        threads: number of CPU threads of torch; 0 leaves it unchanged.
        device, backend, graphs, slots, resize, output_scale, smoothing, views, track_by: see `Pipeline`.
    """

    model: str = "street"
    taxonomy: str = ""
    device: str = "auto"
    precision: str | None = None
    backend: str = "auto"
    graphs: bool = True
    slots: int = 2
    threads: int = 0
    resize: Resize = field(default_factory=Resize)
    output_scale: float = 1.0
    smoothing: float = 0.0
    views: Views = WHOLE
    track_by: str = "overlap"


def build_pipeline(settings: PipelineSettings, tuning: Callable[[Taxonomy], Tuning] | None = None) -> Pipeline:
    """Load a model and build its pipeline, in seconds, or minutes if the model is downloaded.

    Args:
        tuning: function of the model's taxonomy that returns the initial tuning.
    Raises:
        CheckpointError: the model does not exist, or cannot be read.
        TaxonomyError: the taxonomy does not exist.
        ConfigError: this machine or the model does not support the settings.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    network: Any
    backend: Any = settings.backend
    precision = settings.precision
    if is_export(settings.model):
        # The pipeline asks for the network's config alone: the backend has the network.
        network = backend = _exported(settings)
        precision = backend.precision
    else:
        if precision == "auto":
            eight_bits = may_take_eight_bits(settings.model)
            precision = quickest_precision(choose_device(settings.device), settings.backend, eight_bits)
        network = load(settings.model, eight_bits=precision == "int8")
    taxonomy = taxonomy_of(settings.model, network.config, settings.taxonomy)
    return Pipeline(
        network,
        taxonomy,
        device=settings.device,
        precision=precision,
        backend=backend,
        graphs=settings.graphs,
        slots=settings.slots,
        resize=settings.resize,
        tuning=tuning(taxonomy) if tuning else None,
        output_scale=settings.output_scale,
        smoothing=settings.smoothing,
        views=settings.views,
        track_by=settings.track_by,
    )


def _exported(settings: PipelineSettings) -> Exported:
    export = Export.open(settings.model)
    manifest, backend = export.manifest, BACKENDS[export.manifest.format][0]
    if settings.backend not in ("auto", backend):
        raise ConfigError(f"backend {settings.backend!r}: {settings.model} is an export for {backend}; take 'auto'")
    if settings.precision not in (None, "auto", manifest.precision):
        raise ConfigError(
            f"precision {settings.precision!r}: {settings.model} was exported in {manifest.precision}; take 'auto', or "
            "export it again"
        )
    return Exported(export, choose_device(settings.device))
