"""ROS arguments that rcl silently accepts although they have no effect. No ROS in here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence

from m2f_ros.documents import read_yaml
from m2f_ros.errors import DocumentError

FILE, REMAP, VALUE = "--params-file", "--remap", "--param"
SHORT = {"-r": REMAP, "-p": VALUE}


def without_effect(arguments: Sequence[str], node: str) -> list[str]:
    """Return a line for each argument without effect on a node.

    Args:
        arguments: arguments of the process, parsed by rcl.
        node: full name of the node, such as /robot/segmentation.
    """
    lines: list[str] = []
    remapped: dict[str, str] = {}
    for option, text in _ros_arguments(arguments):
        if option == FILE:
            names = _nodes_of(text)
            if names is not None and not any(_fits(name, node) for name in names):
                there = f"its parameters are for {', '.join(names)}" if names else "it has none"
                lines.append(f"{text} sets nothing of this node: {there}; name {node} there, or /** for any node")
            continue
        # With a node's name before it, a rule or value is for that node.
        prefix = re.match(r"([A-Za-z_]\w*):(?!=)(?!//)", text)
        if prefix and prefix[1] != node.rpartition("/")[2]:
            lines.append(f"{option} {text} is for a node {prefix[1]}; this one is {node}")
        elif option == REMAP:
            name, _, target = text[prefix.end() if prefix else 0 :].partition(":=")
            home = os.path.expanduser("~/")
            if len(home) > 1 and name.startswith(home) and not node.startswith(home):
                lines.append(f"{option} {text} changes nothing: the shell wrote {home} for ~/; put the rule in quotes")
            first = remapped.setdefault(_absolute(name, node), target)
            if first != target:
                lines.append(f"{name} is remapped twice: {first} holds, {target} does not")
    return lines


def _absolute(name: str, node: str) -> str:
    """Return the full name of a topic, such as /robot/seg/image for ~/image; __node and similar names stay."""
    if name.startswith("~/"):
        return node + name[1:]
    return name if name.startswith(("/", "__")) else f"{node.rpartition('/')[0]}/{name}"


def _ros_arguments(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield (option, value) of the arguments between --ros-args and --."""
    inside, rest = False, iter(arguments)
    for argument in rest:
        if argument == "--ros-args":
            inside = True
        elif argument == "--":
            inside = False
        elif inside and SHORT.get(argument, argument) in (FILE, REMAP, VALUE):
            yield SHORT.get(argument, argument), next(rest, "")


def _nodes_of(file: str) -> list[str] | None:
    """Return the names of the nodes in a parameter file; None if it is not valid YAML."""
    try:
        content = read_yaml(file)
    except (OSError, DocumentError):
        return None

    def names(part: object, path: tuple[str, ...]) -> Iterator[str]:
        if isinstance(part, Mapping):
            if "ros__parameters" in part:
                yield "/".join(path)
            for key, value in part.items():
                if key != "ros__parameters":
                    yield from names(value, (*path, str(key)))

    return list(names(content, ()))


def _fits(pattern: str, node: str) -> bool:
    """Return True if a name in a parameter file, with rcl_yaml_param_parser's wildcards, matches a node."""
    tokens = [token for token in pattern.split("/") if token]
    parts = {"**": r"(/\w+)*", "*": r"/\w+"}
    return re.fullmatch("".join(parts.get(token, f"/{re.escape(token)}") for token in tokens), node) is not None
