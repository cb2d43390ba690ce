"""Frames in, segmentations out. Knows nothing of ROS."""

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
    # Importing torch takes seconds, and a camera or a recorder needs frames only.
    if name in __all__:
        from m2f_ros.pipeline import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
