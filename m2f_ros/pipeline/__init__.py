"""Segments frames. Independent of ROS."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from m2f_ros.frame.frame import Frame
from m2f_ros.pipeline.tracker import Tracker
from m2f_ros.pipeline.tuning import Tuning

if TYPE_CHECKING:
    from m2f_ros.pipeline.images import ImageSegmenter
    from m2f_ros.pipeline.pipeline import Pipeline, Segmentation, Ticket
    from m2f_ros.pipeline.resize import Resize

__all__ = ["Frame", "Pipeline", "Resize", "Segmentation", "Ticket", "Tracker", "Tuning"]


def __getattr__(name: str) -> object:
    # Imported lazily: torch takes seconds, and cameras and recorders do not need it.
    if name in __all__:
        from m2f_ros.pipeline import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _Callable(ModuleType):
    """This module, which can be called as `transformers.pipeline` is."""

    def __call__(self, task: str = "image-segmentation", model: str = "street", **settings: Any) -> ImageSegmenter:
        """Return a segmenter of images; see `images.pipeline`."""
        from m2f_ros.pipeline.images import pipeline

        return pipeline(task, model, **settings)


sys.modules[__name__].__class__ = _Callable
