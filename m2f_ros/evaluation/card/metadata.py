"""The page's head: metadata as the Hugging Face hub reads it from a README.md."""

from __future__ import annotations

from collections.abc import Sequence

from huggingface_hub import EvalResult, ModelCardData

from m2f_ros.evaluation.card.about import About
from m2f_ros.evaluation.card.evidence import Evidence

TASK = "image-segmentation"
# Key in a result -> (id of the metric on the hub, name).
METRICS = {
    "miou": ("mean_iou", "mean IoU"),
    "pixel_accuracy": ("accuracy", "pixel accuracy"),
    "pq": ("pq", "panoptic quality"),
    "ece": ("ece", "expected calibration error"),
}
TAGS = ["mask2former", "semantic-segmentation", "ros2"]
_DIGITS = 4


def head(name: str, about: About, evidence: Sequence[Evidence]) -> ModelCardData:
    """Licence, tags, data sets, metrics and, as model-index, what was measured."""
    results = [_result(e, key) for e in evidence for key in METRICS if e.result.metrics[key] is not None]
    return ModelCardData(
        model_name=name,
        license=about.licence.id or None,
        library_name="m2f_ros",
        pipeline_tag=TASK,
        tags=TAGS,
        datasets=[data.id for data in about.data if data.id] or None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)),
        eval_results=results,
    )


def _result(evidence: Evidence, key: str) -> EvalResult:
    metric, name = METRICS[key]
    return EvalResult(
        task_type=TASK,
        dataset_type=evidence.about.id or evidence.result.taxonomy["name"],
        dataset_name=evidence.title,
        dataset_split=evidence.about.split or None,
        metric_type=metric,
        metric_name=name,
        metric_value=round(evidence.result.metrics[key], _DIGITS),
    )
