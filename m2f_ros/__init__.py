"""Mask2Former segmentation for ROS 2 camera streams."""

from pkgutil import extend_path

__version__ = "0.1.0"

# The sources and the generated messages are two folders of one package wherever they were not installed as one.
__path__ = extend_path(__path__, __name__)
