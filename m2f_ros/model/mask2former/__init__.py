"""Mask2Former with a Swin or an EfficientNet-Lite backbone. (Cheng et al. 2022, https://arxiv.org/abs/2112.01527)"""

from m2f_ros.model.mask2former.config import STRIDE, SWIN, Mask2FormerConfig, SwinConfig, has_own_backbone
from m2f_ros.model.mask2former.keys import KEYS
from m2f_ros.model.mask2former.network import Mask2Former

__all__ = ["KEYS", "STRIDE", "SWIN", "Mask2Former", "Mask2FormerConfig", "SwinConfig", "has_own_backbone"]
