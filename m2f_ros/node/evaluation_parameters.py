"""The parameters of evaluation_node. Without ROS, for the reference and the launch file."""

from __future__ import annotations

from dataclasses import dataclass

from m2f_ros.node.parameters import at_start, parameters_of


@dataclass(frozen=True)
class EvaluationSettings:
    """Values of evaluation_node's parameters."""

    out: str = at_start("evaluation", "Folder of the report and the recording.")
    measures: tuple[str, ...] = at_start(
        ("boundary", "calibration"),
        "Measures beside IoU, latency and drops. boundary: agreement of outlines; calibration: whether the confidence "
        "is right; panoptic: PQ and instance IoU, where the drive has panoptic ground truth; flips: how steady labels "
        'are. [""]: none.',
        choices=("boundary", "calibration", "panoptic", "flips"),
    )
    pictures: bool = at_start(True, "Record the images, to show the worst frames; for flips they are recorded anyway.")
    transport: str = at_start("raw", "Transport of ~/image, as in segmentation_node.", choices=("raw", "compressed"))
    classes: str = at_start("", "Classes of the scores, as for m2f eval --classes; empty: its default.")
    truth_taxonomy: str = at_start(
        "", "Taxonomy of the ground truth's train ids, a name or YAML file; empty: its legend."
    )
    worst: int = at_start(12, "Number of worst frames to show.", range=(0, 1000))
    timeout: float = at_start(
        120.0,
        "Seconds to wait for the segmentation node's legend, and then for the first ground truth.",
        range=(0.0, 86400.0),
    )
    patience: float = at_start(
        5.0, "Seconds that the last labels may take once the drive has ended.", range=(0.0, 3600.0)
    )
    idle: float = at_start(
        60.0,
        "Seconds without a message, and with the clock of use_sim_time standing still, after which the drive is taken "
        "to have ended though its publishers are still there; 0.0: never.",
        range=(0.0, 86400.0),
    )
    keep: bool = at_start(
        True, "Keep the recording, the bag `recording` in out, when the report is written; false: remove it then."
    )


PARAMETERS = parameters_of(EvaluationSettings)
