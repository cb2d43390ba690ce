"""Plays a recorded drive through the segmentation node, records the outputs, and scores the recording.

Ends by itself; a launch file that includes it goes on. Topics and /clock are in the namespace of the node.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import Action, LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    GroupAction,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessIO
from launch.events.process import ProcessIO
from launch.launch_description_entity import LaunchDescriptionEntity
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node, SetRemap
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from m2f_ros import signals
from m2f_ros.bags.topics import info_topic, truth_topic
from m2f_ros.errors import ConfigError
from m2f_ros.evaluation.report import check_out
from m2f_ros.node.camera_player import PARAMETERS as PLAYER
from m2f_ros.node.evaluation_parameters import PARAMETERS as EVALUATION
from m2f_ros.node.launch_arguments import SEGMENTATION, is_true, texts
from m2f_ros.node.launching import Together, default, image_size, in_scope, namespace, switch, values
from m2f_ros.node.parameters import Parameter
from m2f_ros.processes.children import PARTIAL

# Processes of this package end with this one, even if it is killed.
PARENT = {signals.PARENT: str(os.getpid())}
SHARE = FindPackageShare("m2f_ros")
CLOCK_RATE = 100.0  # messages a second on /clock

ARGUMENTS = (
    DeclareLaunchArgument(
        "bag",
        description="The drive: a rosbag2 (folder, .mcap or .db3). camera_player also takes street (simulated), a "
        "video or a folder of images.",
    ),
    DeclareLaunchArgument(
        "player",
        default_value="auto",
        choices=["auto", "rosbag2", "camera_player"],
        description="Player. rosbag2: `ros2 bag play` with every topic of the bag; camera_player: this package's, with "
        "images and ground truth; auto: rosbag2 for a bag if it is installed.",
    ),
    DeclareLaunchArgument(
        "image",
        default_value="camera/image",
        description="Topic of the images in the bag. They are played on it in the node's namespace, or as it is if it "
        "begins with /.",
    ),
    DeclareLaunchArgument(
        "ground_truth",
        default_value="",
        description="Topic of the ground truth; empty: ground_truth beside the images.",
    ),
    DeclareLaunchArgument("speed", default_value="1.0", description="Factor on the recorded speed."),
    DeclareLaunchArgument(
        "frames", default_value="0", description="Number of images that camera_player plays; 0: all."
    ),
    switch(
        "evaluate",
        "true",
        "Score the labels. The drive then begins when the model is loaded, else at once.",
    ),
    DeclareLaunchArgument(
        "measures",
        default_value="boundary,calibration",
        description="Measures beside IoU: boundary, calibration, panoptic, flips, separated by commas.",
    ),
    DeclareLaunchArgument(
        "classes",
        default_value="",
        description="Classes of the scores, as for m2f eval --classes; empty: its default.",
    ),
    DeclareLaunchArgument(
        "truth_taxonomy", default_value="", description="Taxonomy of the ground truth's ids; empty: its legend."
    ),
    DeclareLaunchArgument(
        "patience", default_value="5.0", description="Seconds that the last labels may take once the drive has ended."
    ),
    switch(
        "pictures",
        "true",
        "Record the images, to show the worst frames; for flips they are recorded anyway.",
    ),
    switch(
        "keep",
        "true",
        "Keep the recording, the bag `recording` in out, when the report is written.",
    ),
    DeclareLaunchArgument("out", default_value="out/replay", description="Folder of the report and the recording."),
    switch(
        "rviz",
        "false",
        "Show camera, overlay and labels in RViz, and diagnostics in rqt_runtime_monitor if that is installed.",
    ),
    switch(
        "foxglove",
        "false",
        "Start foxglove_bridge, for the layout config/m2f_foxglove.json.",
    ),
    DeclareLaunchArgument("port", default_value="8765", description="Port of foxglove_bridge."),
)
NUMBERS = (
    *(row for row in PLAYER if row.name in ("speed", "frames")),
    *(row for row in EVALUATION if row.name == "patience"),
    Parameter("port", 8765, "Of foxglove_bridge.", range=(1, 65535)),
)
(MEASURES,) = (row for row in EVALUATION if row.name == "measures")


def check(context: LaunchContext) -> None:
    """Refuse wrong arguments before the start: processes that run when launch fails stay, without a parent."""
    value = values(context)
    for row in NUMBERS:
        row.read(value(row.name))
    if value("cameras"):
        raise ConfigError("replay.launch.py plays one camera: name its topic with image:=… and leave cameras empty")
    if value("player") == "rosbag2" and not _has_rosbag2():
        raise ConfigError(
            "player:=rosbag2 needs `ros2 bag play`, which is not installed: leave player out, or player:=camera_player"
        )
    for argument, package in (("rviz", "rviz2"), ("foxglove", "foxglove_bridge")):
        if is_true(value(argument)) and not _is_installed(package):
            raise ConfigError(f"{argument}:=true needs the package {package}, which is not installed")
    if is_true(value("evaluate")):
        for measure in texts(value("measures")):
            MEASURES.check([measure], "measures")
        # An earlier report stays as it is until evaluation_node starts.
        read = ("bag", "classes", "truth_taxonomy", "model", "taxonomy")
        check_out(Path(value("out")), [*map(value, read), *texts(value("params_file"))])


def prepare(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Let the node know the images before they come: else the first seconds of the drive would be lost."""
    value = values(context)
    if not is_true(value("evaluate")):
        return []  # the drive does not wait for the node
    if _plays_rosbag2(value):
        # ROS knows the reliability once it plays.
        return default(context, "image_sizes", image_size(value("bag"), f"/{value('image').lstrip('/')}"))
    return [
        *default(context, "image_sizes", image_size(value("bag"))),
        # The reliability of camera_player. A node that finds it out subscribes anew while the drive plays.
        *default(context, "reliability", "reliable"),
    ]


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Everything except the segmentation node."""
    value = values(context)
    image = value("image")
    truth = value("ground_truth") or truth_topic(image)
    if _plays_rosbag2(value):
        player = rosbag2(value, image, truth, namespace(context))
    else:
        player = camera_player(value, image, truth)
    shown = rviz(value, image) if is_true(value("rviz")) else []
    lines = []
    if is_true(value("foxglove")):
        shown.append(foxglove(value))
        layout = PathJoinSubstitution([SHARE, "config", "m2f_foxglove.json"])
        lines.append(
            LogInfo(msg=["In Foxglove, connect to ws://localhost:", value("port"), " and import the layout ", layout])
        )
    if not is_true(value("evaluate")):
        together = Together(context, player, *shown)
        ends = [together.end_with(None), together.end_with(player, "the drive has ended")]
        return [*ends, player, *shown, *lines]
    evaluator = evaluation_node(value, image, truth)
    together = Together(context, player, evaluator, *shown)
    begin = in_scope(context, player)
    return [
        together.end_with(None),
        together.end_with(player, codes=(0, PARTIAL)),
        together.end_with(evaluator, "the evaluation has ended"),
        # The bag begins when the segmentation node is ready.
        RegisterEventHandler(OnProcessIO(target_action=evaluator, on_stdout=lambda event: _follow(event, begin))),
        evaluator,
        *shown,
        *lines,
    ]


def evaluation_node(value: Callable[[str], str], image: str, truth: str) -> Node:
    return Node(
        package="m2f_ros",
        executable="evaluation_node",
        namespace=value("namespace"),
        additional_env=PARENT,
        remappings=[("~/label", f"{value('name')}/label"), ("~/ground_truth", truth), ("~/image", image)],
        parameters=[
            {
                "use_sim_time": True,
                "out": text(os.path.abspath(value("out"))),
                "measures": texts(value("measures")) or [""],
                "classes": text(value("classes")),
                "truth_taxonomy": text(value("truth_taxonomy")),
                "pictures": is_true(value("pictures")),
                "keep": is_true(value("keep")),
                "patience": float(value("patience")),
                "transport": "compressed" if value("transport") == "compressed" else "raw",
            }
        ],
        # Standard output is progress for programs.
        output={"stdout": "log", "stderr": "screen"},
        # On Ctrl-C the evaluator scores the frames so far. SIGTERM would end that, as a second Ctrl-C does.
        sigterm_timeout="86400",
    )


def rosbag2(value: Callable[[str], str], image: str, truth: str, space: str) -> ExecuteProcess:
    """space: namespace of the node, into which relative topics are moved, and /clock."""
    command = ["ros2", "bag", "play", os.path.abspath(value("bag")), "--clock", str(CLOCK_RATE)]
    command += ["--rate", value("speed")]
    # Subscribers need time to find the topics, and the last messages to arrive.
    command += ["--delay", "2.0", "--wait-for-all-acked", "5000", "--disable-keyboard-controls"]
    if space != "/":
        topics = [*played(image, truth).values(), "clock"]
        command += ["--remap", *(f"/{name}:={space}/{name}" for name in topics if not name.startswith("/"))]
    return ExecuteProcess(cmd=command, name="player", output="screen")


def played(image: str, truth: str) -> dict[str, str]:
    """Topic of camera_player -> topic of the drive."""
    names = {"image": image, "image/compressed": f"{image}/compressed", "camera_info": info_topic(image)}
    return names | {f"ground_truth{part}": f"{truth}{part}" for part in ("", "/legend", "/panoptic", "/segments")}


def camera_player(value: Callable[[str], str], image: str, truth: str) -> Node:
    evaluate = is_true(value("evaluate"))
    with_images = is_true(value("pictures")) or "flips" in texts(value("measures"))
    return Node(
        package="m2f_ros",
        executable="camera_player",
        namespace=value("namespace"),
        additional_env=PARENT,
        remappings=list(played(image, truth).items()),
        parameters=[
            {
                "source": text(value("bag")),
                "frames": int(value("frames")),
                "transport": "compressed" if value("transport") == "compressed" else "raw",
                "clock": CLOCK_RATE,
                "speed": float(value("speed")),
                # The segmentation node, and the evaluator where it records images.
                "subscribers": 2 if evaluate and with_images else 1,
                "truth_subscribers": 1 if evaluate else 0,
                "timeout": 600.0,
            }
        ],
        output={"stdout": "log", "stderr": "screen"},
    )


def text(value: str) -> ParameterValue:
    """A text parameter, even if it looks like a number or YAML: the name of a folder may."""
    return ParameterValue(value, value_type=str)


def rviz(value: Callable[[str], str], image: str) -> list[Node]:
    # The file has the usual names.
    topics = {"/camera/image": image}
    topics |= {f"/{SEGMENTATION}/{name}": f"{value('name')}/{name}" for name in ("overlay", "color", "confidence")}
    config = PathJoinSubstitution([SHARE, "config", "m2f.rviz"])
    shared = {"namespace": value("namespace"), "parameters": [{"use_sim_time": True}]}
    shown = [
        Node(package="rviz2", executable="rviz2", arguments=["-d", config], remappings=list(topics.items()), **shared)
    ]
    if _is_installed("rqt_runtime_monitor"):
        shown.append(Node(package="rqt_runtime_monitor", executable="rqt_runtime_monitor", **shared))
    return shown


def foxglove(value: Callable[[str], str]) -> Node:
    return Node(
        package="foxglove_bridge",
        executable="foxglove_bridge",
        namespace=value("namespace"),
        parameters=[{"use_sim_time": True, "port": int(value("port"))}],
    )


def _plays_rosbag2(value: Callable[[str], str]) -> bool:
    if value("player") != "auto":
        return value("player") == "rosbag2"
    bag = value("bag")
    is_bag = os.path.isfile(os.path.join(bag, "metadata.yaml")) or bag.endswith((".mcap", ".db3"))
    return is_bag and _has_rosbag2()


def _has_rosbag2() -> bool:
    return shutil.which("ros2") is not None and _is_installed("ros2bag")


def _is_installed(package: str) -> bool:
    try:
        return bool(get_package_prefix(package))
    except PackageNotFoundError:
        return False


def _follow(event: ProcessIO, begin: Action) -> list[LaunchDescriptionEntity]:
    """The player once the evaluator is ready, and a line once it scores, which may take minutes."""
    actions = [begin] if b'"ready"' in event.text else []
    if b'"scoring"' in event.text:
        actions.append(LogInfo(msg="scoring the recording"))
    return actions


def generate_launch_description() -> LaunchDescription:
    segmentation = PathJoinSubstitution([SHARE, "launch", "m2f.launch.py"])
    return LaunchDescription(
        [
            *ARGUMENTS,
            OpaqueFunction(function=check),
            # Scoped: what is set here is not set in a launch file that includes this one.
            GroupAction(
                [
                    # In a namespace the drive has a clock of its own.
                    SetRemap("/clock", "clock"),
                    OpaqueFunction(function=prepare),
                    # It declares model, device and the other arguments, and sets the Fast DDS profile for the others.
                    IncludeLaunchDescription(
                        PythonLaunchDescriptionSource(segmentation),
                        # Without a depth of 4 a label of which the recorder missed a part would count as missing.
                        launch_arguments={
                            "image": LaunchConfiguration("image"),
                            "use_sim_time": "true",
                            "output_depth": "4",
                            "respawn": "false",
                        }.items(),
                    ),
                    OpaqueFunction(function=start),
                ]
            ),
        ]
    )
