"""Builds a pipeline from the name of a model, for the node, replays and tools."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from m2f_ros.model import load
from m2f_ros.pipeline.classes import taxonomy_of
from m2f_ros.pipeline.device import choose_device, quickest_precision
from m2f_ros.pipeline.pipeline import Pipeline
from m2f_ros.pipeline.resize import Resize
from m2f_ros.pipeline.tuning import Tuning
from m2f_ros.taxonomy import Taxonomy


@dataclass(frozen=True)
class PipelineSettings:
    """Settings of a pipeline that never change.

    Attributes:
        model: name of a shipped model, folder of a checkpoint, or Hugging Face hub id.
        taxonomy: name or YAML file of the model's classes; "" for the checkpoint's own.
        precision: "auto" for the fastest one; else see `Pipeline`.
        threads: number of CPU threads of torch; 0 leaves it unchanged.
        device, backend, graphs, slots, resize, output_scale, smoothing: see `Pipeline`.
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
    precision = settings.precision
    if precision == "auto":
        precision = quickest_precision(choose_device(settings.device), settings.backend)
    network = load(settings.model)
    taxonomy = taxonomy_of(settings.model, network.config, settings.taxonomy)
    return Pipeline(
        network,
        taxonomy,
        device=settings.device,
        precision=precision,
        backend=settings.backend,
        graphs=settings.graphs,
        slots=settings.slots,
        resize=settings.resize,
        tuning=tuning(taxonomy) if tuning else None,
        output_scale=settings.output_scale,
        smoothing=settings.smoothing,
    )
