"""From the name of a model to a pipeline: the one way that the node, replays and tools share."""

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
    """Settings of a pipeline that hold as long as it lives.

    Attributes:
        model: name of a shipped model, folder of a checkpoint, or Hugging Face hub id.
        taxonomy: classes of the model, a name or a YAML file; "" takes those that the checkpoint names.
        precision: "auto" takes the quickest for live frames; else as of `Pipeline`.
        threads: CPU threads of torch; 0 leaves their number as it is.
        device, backend, graphs, slots, resize, output_scale, smoothing: as of `Pipeline`.
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
    """Load a model and make a pipeline of it. Takes seconds, and minutes where a model is fetched.

    Args:
        tuning: returns the tuning to begin with, for the classes of the model.
    Raises:
        CheckpointError: there is no such model, or it cannot be read.
        TaxonomyError: there is no such taxonomy.
        ConfigError: settings that this machine or the model cannot have.
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
