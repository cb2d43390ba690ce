"""Segments frames. Independent of ROS."""

from __future__ import annotations

from typing import TYPE_CHECKING

from m2f_ros.frame.frame import Frame
from m2f_ros.pipeline.tracker import Tracker
from m2f_ros.pipeline.tuning import Tuning

if TYPE_CHECKING:
    from m2f_ros.pipeline.pipeline import Pipeline, Segmentation, Ticket
    from m2f_ros.pipeline.resize import Resize

__all__ = ["Frame", "Pipeline", "Resize", "Segmentation", "Ticket", "Tracker", "Tuning"]


def __getattr__(name: str) -> object:
    # Imported lazily: torch takes seconds, and cameras and recorders do not need it.
    if name in __all__:
        from m2f_ros.pipeline import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
