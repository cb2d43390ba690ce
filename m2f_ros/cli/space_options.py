"""Options for outputs in space, by the names of the node's parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

# Names of the node's parameters that concern outputs in space; those of cameras come after camera.NAME.
NODE = ("base_frame", "fixed_frame", "points.stride", "points.slop", "lidar.slop", "lidar.extrinsics", "obstacles.cost")
GROUP = "grid."
CAMERA = ("extrinsics", "rectified", "ignore_mask")


def space_settings(given: Sequence[str]) -> Any:
    """Read SpaceSettings from texts of the form NAME:=VALUE, with values in YAML.

    Raises ConfigError for a wrong value, and UsageError for another form or an unknown name.
    """
    from m2f_ros.node.parameters import CameraSettings, NodeSettings
    from m2f_ros.node.space_settings import space_settings_of

    node: dict[str, Any] = {}
    cameras: dict[str, dict[str, Any]] = {}
    for text in given:
        name, between, value = text.partition(":=")
        if not between or not name:
            raise click.UsageError(f"-p {text}: expected NAME:=VALUE, such as grid.resolution:=0.2")
        camera, own = _split(name)
        if camera is None:
            node[own.replace(".", "_")] = _checked(NodeSettings, own, value, name)
        else:
            cameras.setdefault(camera, {})[own] = _checked(CameraSettings, own, value, name)
    return space_settings_of(NodeSettings(**node), cameras)


def _split(name: str) -> tuple[str | None, str]:
    """Return the camera, None for a parameter of the node, and the name without its prefix. Raises UsageError."""
    if name in NODE or name.startswith(GROUP):
        return None, name
    prefix, _, own = name.rpartition(".")
    if own in CAMERA and (not prefix or prefix.startswith("camera.")):
        return prefix.removeprefix("camera."), own
    known = ", ".join([*NODE, f"{GROUP}…", *(f"[camera.NAME.]{own}" for own in CAMERA)])
    raise click.UsageError(f"-p {name}: no parameter of outputs in space; there is {known}")


def _checked(kind: type, own: str, value: str, name: str) -> Any:
    from m2f_ros.node.parameters import parameters_of

    rows = {row.name: row for row in parameters_of(kind)}
    if own not in rows:
        there = ", ".join(one for one in rows if one.startswith(GROUP))
        raise click.UsageError(f"-p {name}: no such parameter; there is {there}")
    return rows[own].check(_from_yaml(value, rows[own].default), name)


def _from_yaml(text: str, default: object) -> Any:
    """Return the value of a text; a whole number is a number where one belongs, and an unquoted text is a text."""
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(default, str):
        return "" if value is None else text if not isinstance(value, str) else value
    return float(value) if isinstance(default, float) and type(value) is int else value
