"""The arguments `name:=value` of launch/m2f.launch.py and `m2f node`. Imports neither ROS nor launch.

An argument that is not given changes nothing: a params_file, or the node's own default holds.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from m2f_ros.errors import ConfigError
from m2f_ros.node.parameters import CAMERA, NODE, Value, read_sizes
from m2f_ros.processes.children import ros_arguments

SEGMENTATION = "segmentation_node"  # executable, and usual name of the node
# Parameters of the node that are arguments, too; a params_file sets the others.
PARAMETERS = (
    "model",
    "taxonomy",
    "device",
    "precision",
    "backend",
    "resize",
    "max_pixels",
    "output_scale",
    "output_depth",
    "smoothing",
    "alpha",
    "transport",
    "reliability",
    "max_rate",
    "ignore_mask",
    "base_frame",
    "fixed_frame",
    "autostart",
)
LISTS = ("cameras", "image_sizes", "outputs")  # parameters whose arguments have commas
ROWS = {row.name: row for row in (*NODE, *CAMERA)}
BOOLEANS = ("true", "false", "True", "False")  # as in YAML or as in Python
LEVELS = ("debug", "info", "warn", "error", "fatal")


@dataclass(frozen=True)
class Argument:
    """One argument. default: None if it must be given. choices: all valid texts; none: any text."""

    name: str
    description: str
    default: str | None = ""
    choices: tuple[str, ...] = ()

    @property
    def wanted(self) -> str:
        """The choices in words, without "" and without the second way of writing one."""
        return ", ".join(dict.fromkeys(choice.lower() for choice in self.choices if choice))


@dataclass(frozen=True)
class Start:
    """The start of a node, as its arguments say.

    Attributes:
        name, namespace: of the node.
        remappings: topic of the node -> topic of the camera or lidar.
        params_files: YAML files of parameters; of two values the later holds.
        parameters: name -> value, of those that were given; they override the files.
        log_level: least severity of the node's log lines; "" for that of the process.
        chooses_profile: whether a Fast DDS profile for large images is chosen.
    """

    name: str
    namespace: str
    remappings: dict[str, str]
    params_files: tuple[str, ...]
    parameters: dict[str, Value]
    log_level: str
    chooses_profile: bool

    @property
    def full_name(self) -> str:
        """Name of the node with its namespace, such as /robot/segmentation_node."""
        return "/".join(["", *filter(None, self.namespace.split("/")), self.name])

    def ros_arguments(self) -> list[str]:
        """Return the arguments of ROS for a process of the node that takes the place of this one."""
        names = {"__node": self.name}
        if namespace := self.full_name.rpartition("/")[0]:
            names["__ns"] = namespace
        files = list(self.params_files)
        if files and self.parameters:
            # In the files values for /** go all before, or all behind, those for the node's name, by which of the two
            # came first. So the arguments are given for both.
            text = json.dumps({self.full_name: {"ros__parameters": self.parameters}})
            file = os.memfd_create("parameters", 0)
            os.write(file, text.encode())
            files.append(f"/dev/fd/{file}")
        given = [option for file in files for option in ("--params-file", file)]
        if self.log_level:  # the node's alone: DDS logs much at debug
            given += ["--log-level", f"{self.full_name[1:].replace('/', '.')}:={self.log_level}"]
        return [*ros_arguments(self.parameters, names | self.remappings), *given]


def _of_parameter(name: str) -> Argument:
    """The argument of a parameter; an empty one leaves the value to the file, or to the node."""
    row = ROWS[name]
    choices = BOOLEANS if isinstance(row.default, bool) else tuple(map(str, row.choices))
    default = str(row.default).lower() if isinstance(row.default, bool) else row.default
    description = f"{row.description} Empty: from the params_file, else {default!r}."
    return Argument(name, description, choices=("", *choices) if choices else ())


ARGUMENTS = (
    Argument(
        "image",
        "Topic of the images, for example /camera/image_raw. With `cameras` NAME stands for the name of each camera, "
        "for example /NAME/image_raw.",
        default=None,
    ),
    Argument("cameras", "Names of the cameras, separated by commas; empty: one camera without a name."),
    Argument(
        "image_sizes",
        "Sizes of the images, for example 1920x1080, separated by commas: the model is prepared for them before the "
        "first image. Empty: from the params_file, else none.",
    ),
    Argument(
        "outputs",
        "Outputs that may be computed, separated by commas, for example label,overlay. Empty: from the params_file, "
        "else everything that has a listener.",
    ),
    Argument(
        "depth",
        "Topic of depth images registered to the camera, for points; NAME stands for the name of each camera. Empty: "
        "none.",
    ),
    Argument("cloud", "Topic of the clouds of a lidar, to be labelled. Empty: none."),
    Argument("namespace", "Namespace of the node; in a launch file below one that PushROSNamespace pushes."),
    Argument("name", "Name of the node; its topics are under this name.", SEGMENTATION),
    Argument(
        "params_file",
        "YAML files of parameters, separated by commas; of two values the later holds, and the arguments override "
        "both. See share/m2f_ros/config.",
    ),
    Argument(
        "use_sim_time",
        "Take the time from /clock. Empty: from SetParameter or the params_file, else no.",
        choices=("", *BOOLEANS),
    ),
    Argument(
        "log_level",
        "Least severity of the node's log lines. Empty: info.",
        choices=("", *LEVELS, *(level.upper() for level in LEVELS)),
    ),
    Argument(
        "fastdds_profile",
        "Choose a Fast DDS profile for large images by the free shared memory, unless one is set; the camera's driver "
        "needs one, too.",
        "true",
        BOOLEANS,
    ),
    *map(_of_parameter, PARAMETERS),
)


def parse(given: Sequence[str]) -> dict[str, str]:
    """Return the value of every argument from texts `name:=value`, as launch does; the last of a name holds.

    Raises ConfigError for a text of another form, an unknown name, a missing argument, or none of the choices.
    """
    names = [argument.name for argument in ARGUMENTS]
    values = {argument.name: argument.default for argument in ARGUMENTS if argument.default is not None}
    for text in given:
        name, assigned, value = text.partition(":=")
        if not assigned:
            raise ConfigError(f"{text!r} is not of the form name:=value, as image:=/camera/image_raw is")
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            instead = f"do you mean {near[0]}:=…?" if near else "other parameters of the node go into a params_file"
            raise ConfigError(f"{text}: there is no argument {name!r}; {instead}")
        values[name] = value
    for argument in ARGUMENTS:
        if argument.name not in values:
            raise ConfigError(f"{argument.name}:=… is missing. {argument.description}")
        if argument.choices and values[argument.name] not in argument.choices:
            raise ConfigError(f"{argument.name}:={values[argument.name]} must be one of {argument.wanted}")
    return values


def read(values: Mapping[str, str]) -> Start:
    """Return the start of a node by the values of all arguments.

    Raises ConfigError for a wrong number, size or output, a file that does not exist, several cameras on one topic, or
    a topic with NAME without cameras.
    """

    def listed(name: str) -> tuple[str, ...]:
        return tuple(texts(values[name]))

    parameters: dict[str, Value] = {name: found for name in LISTS if (found := listed(name))}
    parameters |= {name: _typed(name, values[name]) for name in PARAMETERS if values[name]}
    if values["use_sim_time"]:
        parameters["use_sim_time"] = is_true(values["use_sim_time"])
    read_sizes(listed("image_sizes"))
    if outputs := listed("outputs"):
        ROWS["outputs"].check(outputs)
    cameras, files = listed("cameras"), listed("params_file")
    remappings: dict[str, str] = {}
    for argument in ("image", "depth"):
        topic = values[argument]
        if len(cameras) > 1 and topic and "NAME" not in topic:
            raise ConfigError(
                f"{argument}:={topic} is one topic for {len(cameras)} cameras: put NAME for the name of each"
            )
        if "NAME" in topic.split("/") and not cameras:
            raise ConfigError(
                f"{argument}:={topic}: NAME stands for the names in cameras:=, which is empty; give it also where a "
                "params_file has cameras"
            )
        if topic:
            names = {f"~/{name}/{argument}": name for name in cameras} or {f"~/{argument}": "NAME"}
            remappings |= {own: topic.replace("NAME", name) for own, name in names.items()}
    if values["cloud"]:
        remappings["~/cloud"] = values["cloud"]
    for file in files:
        if not os.path.isfile(file):
            raise ConfigError(f"params_file:={file}: there is no such file")
    return Start(
        name=values["name"],
        namespace=values["namespace"],
        remappings=remappings,
        params_files=files,
        parameters=parameters,
        log_level=values["log_level"].lower(),
        chooses_profile=is_true(values["fastdds_profile"]),
    )


def is_true(text: str) -> bool:
    """Return True for a true one of BOOLEANS."""
    return text.lower() == "true"


def texts(text: str) -> list[str]:
    """Return the parts of a text between its commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def _typed(name: str, text: str) -> Value:
    row = ROWS[name]
    if isinstance(row.default, bool):
        return is_true(text)
    return text if isinstance(row.default, str) else row.read(text)
