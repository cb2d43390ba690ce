"""Runs a checkpoint as a Hugging Face Inference Endpoint.

`m2f_ros.model.save` writes handler.py into a checkpoint, which imports `EndpointHandler`. (Interface:
https://huggingface.co/docs/inference-endpoints/guides/custom_handler)
"""

from __future__ import annotations

from typing import Any

from m2f_ros.pipeline.build import PipelineSettings, build_pipeline
from m2f_ros.pipeline.images import ImageSegmenter, decoded, frame_of
from m2f_ros.serve.answers import answer_of, parameters_of


class EndpointHandler:
    """Answers the requests of an endpoint.

    Args:
        path: folder of the checkpoint.
    Raises:
        CheckpointError: it cannot be read.
    """

    def __init__(self, path: str = ""):
        self._segmenter = ImageSegmenter(build_pipeline(PipelineSettings(model=path, precision="auto")))

    def __call__(self, data: dict[str, Any]) -> list[dict[str, Any]]:
        """Segment an image.

        Args:
            data: "inputs" is a PIL image, bytes of a file, or base64 text; "parameters" as in
                `m2f_ros.serve.answers.PARAMETERS`.
        Returns:
            {"label", "score", "mask"} of each segment, the mask as a PNG in base64.
        Raises:
            SourceError: there is no image that can be read.
            ConfigError: a parameter is unknown or out of range.
        """
        subtask, thresholds = parameters_of(data.get("parameters"))
        image = data.get("inputs")
        # A text is an image, and never the path of a file of the endpoint, nor a URL.
        frame = frame_of(decoded(image) if isinstance(image, str) else image)
        (found,) = self._segmenter.segment([frame], subtask, thresholds)
        return answer_of(found)
