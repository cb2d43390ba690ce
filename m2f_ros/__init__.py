"""Mask2Former segmentation for ROS 2 camera streams."""

from pkgutil import extend_path

__version__ = "0.1.0"

# Sources and generated messages are one package, in two folders where they were not installed as one.
__path__ = extend_path(__path__, __name__)
