"""Plays a recorded drive through the segmentation node, records the outputs, and scores the recording."""

import os
import shutil
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
)
from launch.event_handlers import OnProcessExit, OnProcessIO
from launch.events.process import ProcessExited, ProcessIO
from launch.launch_description_entity import LaunchDescriptionEntity
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from m2f_ros import signals
from m2f_ros.bags.topics import info_topic, truth_topic
from m2f_ros.errors import ConfigError
from m2f_ros.evaluation.report import remove_report
from m2f_ros.node.camera_player import PARAMETERS as PLAYER
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
    DeclareLaunchArgument("image", default_value="/camera/image", description="Topic of the images in the bag."),
    DeclareLaunchArgument(
        "ground_truth",
        default_value="",
        description="Topic of the ground truth; empty: ground_truth beside the images.",
    ),
    DeclareLaunchArgument("speed", default_value="1.0", description="Factor on the recorded speed."),
    DeclareLaunchArgument(
        "frames", default_value="0", description="Number of images that camera_player plays; 0: all."
    ),
    DeclareLaunchArgument(
        "evaluate",
        default_value="true",
        choices=["true", "false"],
        description="Score the labels. The drive then begins when the model is loaded, else at once.",
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
        "pictures",
        default_value="true",
        choices=["true", "false"],
        description="Record the images, to show the worst frames; for flips they are recorded anyway.",
    ),
    DeclareLaunchArgument(
        "keep",
        default_value="true",
        choices=["true", "false"],
        description="Keep the recording, the bag `recording` in out, when the report is written.",
    ),
    DeclareLaunchArgument("out", default_value="out/replay", description="Folder of the report and the recording."),
    DeclareLaunchArgument(
        "rviz",
        default_value="false",
        choices=["true", "false"],
        description="Show camera, overlay and labels in RViz, and diagnostics in rqt_runtime_monitor if that is "
        "installed.",
    ),
    DeclareLaunchArgument(
        "foxglove",
        default_value="false",
        choices=["true", "false"],
        description="Start foxglove_bridge, for the layout config/m2f_foxglove.json.",
    ),
    DeclareLaunchArgument("port", default_value="8765", description="Port of foxglove_bridge."),
)
NUMBERS = (
    *(row for row in PLAYER if row.name in ("speed", "frames")),
    Parameter("port", 8765, "Of foxglove_bridge.", range=(1, 65535)),
)


def check(context: LaunchContext) -> None:
    """Refuse wrong arguments before the start: processes that run when launch fails stay, without a parent."""

    def value(name: str) -> str:
        return LaunchConfiguration(name, default="").perform(context)

    if value("evaluate") == "true":
        # Removed here, too: a refused launch must not leave an earlier report.
        read = ("bag", "classes", "truth_taxonomy", "model", "taxonomy", "params_file")
        remove_report(Path(value("out")), [value(name) for name in read])
    for row in NUMBERS:
        row.read(value(row.name))
    if value("cameras"):
        raise ConfigError("replay.launch.py plays one camera: name its topic with image:=… and leave cameras empty")
    if value("player") == "rosbag2" and not _has_rosbag2():
        raise ConfigError(
            "player:=rosbag2 needs `ros2 bag play`, which is not installed: leave player out, or player:=camera_player"
        )
    for argument, package in (("rviz", "rviz2"), ("foxglove", "foxglove_bridge")):
        if value(argument) == "true" and not _is_installed(package):
            raise ConfigError(f"{argument}:=true needs the package {package}, which is not installed")


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Everything except the segmentation node."""

    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    image = value("image")
    truth = value("ground_truth") or truth_topic(image)
    node = "/".join(["", *filter(None, value("namespace").split("/")), value("name")])
    evaluate = value("evaluate") == "true"
    player = rosbag2(value) if _plays_rosbag2(value) else camera_player(value, image, truth)
    actions = [_ends_with("segmentation_node", player)]
    if evaluate:
        evaluator = evaluation_node(value, image, truth, f"{node}/label")
        actions += [
            # The bag begins when the segmentation node is ready.
            RegisterEventHandler(OnProcessIO(target_action=evaluator, on_stdout=lambda event: _follow(event, player))),
            evaluator,
        ]
    else:
        actions += [
            RegisterEventHandler(OnProcessExit(target_action=player, on_exit=[Shutdown(reason="the drive has ended")])),
            player,
        ]
    if value("rviz") == "true":
        actions += rviz(node, image)
    if value("foxglove") == "true":
        actions += foxglove(value)
    return actions


def evaluation_node(value, image: str, truth: str, label: str) -> Node:
    return Node(
        package="m2f_ros",
        executable="evaluation_node",
        additional_env=PARENT,
        remappings=[("~/label", label), ("~/ground_truth", truth), ("~/image", image)],
        parameters=[
            {
                "use_sim_time": True,
                "out": text(os.path.abspath(value("out"))),
                "measures": value("measures").split(","),
                "classes": text(value("classes")),
                "truth_taxonomy": text(value("truth_taxonomy")),
                "pictures": value("pictures") == "true",
                "keep": value("keep") == "true",
                "transport": "compressed" if value("transport") == "compressed" else "raw",
            }
        ],
        # Standard output is progress for programs.
        output={"stdout": "log", "stderr": "screen"},
        # On Ctrl-C the evaluator scores the frames so far. SIGTERM would end that, as a second Ctrl-C does.
        sigterm_timeout="86400",
        on_exit=Shutdown(reason="the evaluation has ended"),
    )


def rosbag2(value) -> ExecuteProcess:
    command = [
        "ros2",
        "bag",
        "play",
        os.path.abspath(value("bag")),
        "--clock",
        str(CLOCK_RATE),
        "--rate",
        value("speed"),
    ]
    # Subscribers need time to find the topics, and the last messages to arrive.
    command += ["--delay", "2.0", "--wait-for-all-acked", "5000", "--disable-keyboard-controls"]
    return ExecuteProcess(cmd=command, name="player", output="screen")


def camera_player(value, image: str, truth: str) -> Node:
    names = {"image": image, "image/compressed": f"{image}/compressed", "camera_info": info_topic(image)}
    names |= {f"ground_truth{part}": f"{truth}{part}" for part in ("", "/legend", "/panoptic", "/segments")}
    evaluate = value("evaluate") == "true"
    with_images = value("pictures") == "true" or "flips" in value("measures").split(",")
    return Node(
        package="m2f_ros",
        executable="camera_player",
        additional_env=PARENT,
        remappings=list(names.items()),
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


def rviz(node: str, image: str) -> list[LaunchDescriptionEntity]:
    # The file has the default names of m2f.launch.py.
    topics = {"/camera/image": image} | {f"/segmentation/{name}": f"{node}/{name}" for name in ("overlay", "color")}
    config = PathJoinSubstitution([SHARE, "config", "m2f.rviz"])
    parameters = [{"use_sim_time": True}]
    shown = [
        Node(
            package="rviz2",
            executable="rviz2",
            arguments=["-d", config],
            remappings=list(topics.items()),
            parameters=parameters,
        )
    ]
    if _is_installed("rqt_runtime_monitor"):
        shown.append(Node(package="rqt_runtime_monitor", executable="rqt_runtime_monitor", parameters=parameters))
    return shown


def foxglove(value) -> list[LaunchDescriptionEntity]:
    layout = PathJoinSubstitution([SHARE, "config", "m2f_foxglove.json"])
    return [
        Node(
            package="foxglove_bridge",
            executable="foxglove_bridge",
            parameters=[{"use_sim_time": True, "port": int(value("port"))}],
        ),
        LogInfo(msg=["In Foxglove, connect to ws://localhost:", value("port"), " and import the layout ", layout]),
    ]


def _plays_rosbag2(value) -> bool:
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


def _follow(event: ProcessIO, player: ExecuteProcess) -> list[LaunchDescriptionEntity]:
    """The player once the evaluator is ready, and a line once it scores, which may take minutes."""
    actions = [player] if b'"ready"' in event.text else []
    if b'"scoring"' in event.text:
        actions.append(LogInfo(msg="scoring the recording"))
    return actions


def _ends_with(executable: str, player: ExecuteProcess) -> RegisterEventHandler:
    """End the launch when the segmentation node ends or the player fails."""

    def end(event: ProcessExited, context: LaunchContext) -> list[LaunchDescriptionEntity] | None:
        failed = event.action is player and event.returncode not in (0, PARTIAL)
        wanted = failed or event.process_name.startswith(executable)
        if wanted and not context.is_shutdown:
            return [Shutdown(reason=f"{event.process_name} has ended")]
        return None

    return RegisterEventHandler(OnProcessExit(on_exit=end))


def generate_launch_description() -> LaunchDescription:
    segmentation = PathJoinSubstitution([SHARE, "launch", "m2f.launch.py"])
    return LaunchDescription(
        [
            *ARGUMENTS,
            OpaqueFunction(function=check),
            # It declares model, device and the other arguments, and sets the Fast DDS profile for the others, too.
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(segmentation),
                # Without a depth of 4 a label of which the recorder missed a part would count as missing.
                launch_arguments={
                    "image": LaunchConfiguration("image"),
                    "use_sim_time": "true",
                    "output_depth": "4",
                }.items(),
            ),
            OpaqueFunction(function=start),
        ]
    )
