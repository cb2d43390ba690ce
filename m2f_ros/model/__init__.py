"""Networks, which map tensors to tensors. Depends on torch only.

`registry.FAMILIES` lists the families, `network.Network` is their interface.
"""

from m2f_ros.model.checkpoint import has_eight_bits, load, may_take_eight_bits, save
from m2f_ros.model.mask2former import STRIDE, SWIN, Mask2Former, SwinConfig
from m2f_ros.model.mask2former import Mask2FormerConfig as ModelConfig
from m2f_ros.model.network import BoxedInstances, Instances, MaskClassification, Network, NetworkConfig, PixelLogits
from m2f_ros.model.registry import build, read_config, write_config

__all__ = [
    "STRIDE",
    "SWIN",
    "BoxedInstances",
    "Instances",
    "Mask2Former",
    "MaskClassification",
    "ModelConfig",
    "Network",
    "NetworkConfig",
    "PixelLogits",
    "SwinConfig",
    "build",
    "has_eight_bits",
    "load",
    "may_take_eight_bits",
    "read_config",
    "save",
    "write_config",
]
