"""Mask2Former segmentation for ROS 2 camera streams."""

import importlib
import os
import sys
from pkgutil import extend_path

__version__ = "0.1.0"

# Sources and generated messages are one package, in two folders where they were not installed as one.
__path__ = extend_path(__path__, __name__)

# Nothing here opens a connection that its user did not ask for. Some libraries report their use unless they are told
# otherwise before their first import, and every import of this package passes here first. OpenVINO, and tools that come
# with it, take an absent openvino_telemetry for a refusal. Variables that the user has set stay as they are.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
for _name, _value in {
    "DISABLE_SAFETENSORS_CONVERSION": "1",  # transformers asks the hub to convert what it loads from a .bin
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}.items():
    os.environ.setdefault(_name, _value)


def __getattr__(name: str) -> object:
    # `m2f_ros.pipeline("image-segmentation")` after `import m2f_ros` alone.
    if name == "pipeline":
        return importlib.import_module("m2f_ros.pipeline")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
