"""The parameters of evaluation_node. Without ROS, for the reference and the launch file."""

from __future__ import annotations

from m2f_ros.node.parameters import Parameter

PARAMETERS = (
    Parameter("out", "evaluation", "Folder of the report and the recording."),
    Parameter(
        "measures",
        ("boundary", "calibration"),
        "Measures beside IoU, latency and drops. boundary: agreement of outlines; calibration: whether the confidence "
        "is right; panoptic: PQ and instance IoU, where the drive has panoptic ground truth; flips: how steady labels "
        'are. [""]: none.',
        choices=("boundary", "calibration", "panoptic", "flips"),
    ),
    Parameter("pictures", True, "Record the images, to show the worst frames; for flips they are recorded anyway."),
    Parameter("transport", "raw", "Transport of ~/image, as in segmentation_node.", choices=("raw", "compressed")),
    Parameter("classes", "", "Classes of the scores, as for m2f eval --classes; empty: its default."),
    Parameter(
        "truth_taxonomy", "", "Taxonomy of the ground truth's train ids, a name or YAML file; empty: its legend."
    ),
    Parameter("worst", 12, "Number of worst frames to show.", range=(0, 1000)),
    Parameter(
        "timeout",
        120.0,
        "Seconds to wait for the segmentation node's legend, and then for the first ground truth.",
        range=(0.0, 86400.0),
    ),
    Parameter("patience", 5.0, "Seconds that the last labels may take once the drive has ended.", range=(0.0, 3600.0)),
    Parameter(
        "idle",
        60.0,
        "Seconds without a message, and with the clock of use_sim_time standing still, after which the drive is taken "
        "to have ended though its publishers are still there; 0.0: never.",
        range=(0.0, 86400.0),
    ),
    Parameter(
        "keep",
        True,
        "Keep the recording, the bag `recording` in out, when the report is written; false: remove it then.",
    ),
)
