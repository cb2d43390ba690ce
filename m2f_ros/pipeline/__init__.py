"""Frames in, segmentations out. Knows nothing of ROS."""

from m2f_ros.pipeline.frame import ENCODINGS, Frame
from m2f_ros.pipeline.pipeline import Pipeline, Segmentation, Ticket

__all__ = ["ENCODINGS", "Frame", "Pipeline", "Segmentation", "Ticket"]
