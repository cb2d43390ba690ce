"""The network: tensors in, tensors out. Needs torch alone."""

from m2f_ros.model.checkpoint import load, save
from m2f_ros.model.config import SWIN, ModelConfig, SwinConfig
from m2f_ros.model.mask2former import STRIDE, Mask2Former, Output, Plan, build

__all__ = ["STRIDE", "SWIN", "Mask2Former", "ModelConfig", "Output", "Plan", "SwinConfig", "build", "load", "save"]
