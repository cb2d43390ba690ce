"""Scores of segmentations against ground truth, as counts that can be summed over images, drives and workers."""

from m2f_ros.metrics.boundary import BoundaryScore
from m2f_ros.metrics.calibration import Calibration, ReliabilityBin
from m2f_ros.metrics.confusion import Confusion
from m2f_ros.metrics.flips import Flips
from m2f_ros.metrics.instances import CITYSCAPES_SIZES, InstanceIou
from m2f_ros.metrics.panoptic import PanopticQuality
from m2f_ros.metrics.ranges import CellScore, PointScore

__all__ = [
    "CITYSCAPES_SIZES",
    "BoundaryScore",
    "Calibration",
    "CellScore",
    "Confusion",
    "Flips",
    "InstanceIou",
    "PanopticQuality",
    "PointScore",
    "ReliabilityBin",
]
