"""Imports point one way, by the order of the rooms; only the node knows ROS."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "m2f_ros"
# Rooms, and modules at the top level, from the ground up: each imports only what is above it.
ROOMS = [
    "",
    "errors",
    "files",
    "tables",
    "documents",
    "typed",
    "cache",
    "results",
    "signals",
    "taxonomy_file",
    "taxonomy",
    "frame",
    "space",
    "kernels",
    "model",
    "pipeline",
    "metrics",
    "datasets",
    "processes",
    "bags",
    "street",
    "sources",
    "viewing",
    "replay",
    "benchmark",
    "evaluation",
    "training",
    "export",
    "serve",
    "node",
    # A verb imports its room inside its function: `m2f --help` needs neither torch nor ROS.
    "cli",
    "__main__",
]
BASE = ROOMS[: ROOMS.index("frame")]
ROS = {
    "ament_index_python",
    "bondpy",
    "builtin_interfaces",
    "cv_bridge",
    "launch",
    "launch_ros",
    "rcl_interfaces",
    "rclpy",
    "rosidl_runtime_py",
    "sensor_msgs_py",
    "tf2_msgs",
    "tf2_ros",
    "vision_msgs",
    "nav_msgs",
    "geometry_msgs",
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def imported(tree: ast.AST, package: str = "") -> Iterator[tuple[str, bool]]:
    """(module, whether as soon as the importing one is loaded) of each import.

    `from m2f_ros import x` counts as m2f_ros.x; a relative import as one from `package`.
    """
    in_functions = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                parents = package.split(".")
                module = ".".join(parents[: len(parents) + 1 - node.level] + [module] * bool(module))
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "m2f_ros" else [module]
        for name in names:
            yield name, id(node) not in in_functions


def room(path: Path) -> str:
    """model for m2f_ros/model/hub.py, taxonomy for m2f_ros/taxonomy.py, nothing for m2f_ros/__init__.py."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def faults(source: str, of: str, package: str = "m2f_ros") -> list[str]:
    """Forbidden imports of a module with this source, in room `of` of `package`."""
    found = []
    for name, at_load in imported(ast.parse(source), package):
        top, _, rest = name.partition(".")
        target = rest.partition(".")[0]
        if top == "m2f_ros":
            above = ROOMS[: ROOMS.index(of)] if of != "cli" or not at_load else BASE
            built = target in {"__version__", "msg" if of == "node" else ""}
            built = built or (of == "cli" and name == "m2f_ros.frame.outputs")  # a table of names
            if target not in (*above, of) and not built:
                found.append(name)
        elif (
            (of != "node" and (top in ROS or top.endswith("_msgs")))
            or top == "torchvision"
            or (top == "transformers" and (of not in ("benchmark", "model") or at_load))
        ):
            found.append(name)
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    package = ".".join(path.relative_to(PACKAGE.parent).parent.parts)
    assert faults(path.read_text(), room(path), package) == []


@pytest.mark.parametrize(
    "source, of, fault",
    [
        ("import rclpy", "replay", "rclpy"),
        ("from sensor_msgs.msg import Image", "pipeline", "sensor_msgs.msg"),
        ("def f():\n    import rclpy.node", "cli", "rclpy.node"),
        ("from m2f_ros import replay", "pipeline", "m2f_ros.replay"),
        ("from m2f_ros.pipeline.resize import Resize", "model", "m2f_ros.pipeline.resize"),
        ("def f():\n    from m2f_ros.node import messages", "replay", "m2f_ros.node"),
        ("from m2f_ros.evaluation import result", "replay", "m2f_ros.evaluation"),
        ("from m2f_ros.bags import reader", "metrics", "m2f_ros.bags"),
        ("from m2f_ros.sources import open", "bags", "m2f_ros.sources"),
        ("from m2f_ros.training import loop", "cli", "m2f_ros.training"),
        ("from m2f_ros.model import load", "taxonomy", "m2f_ros.model"),
        ("from ..node import messages", "pipeline", "m2f_ros.node"),
        ("from .. import replay", "model", "m2f_ros.replay"),
        ("from m2f_ros.model import swin", "kernels", "m2f_ros.model"),
        ("import transformers", "model", "transformers"),
        ("import transformers", "benchmark", "transformers"),
    ],
)
def test_a_wrong_import_is_found(source: str, of: str, fault: str) -> None:
    assert faults(source, of, f"m2f_ros.{of}") == [fault]


def modules_imported(path: Path) -> set[str]:
    """Modules of the package that a module imports at its top, those for its types included."""
    tree, names = ast.parse(path.read_text()), set()
    in_functions = {id(node) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for node in ast.walk(f)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and id(node) not in in_functions:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                names.add(inner if inner in NAMES else node.module)
    return names & NAMES.keys()


NAMES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path for path in MODULES
}


def test_no_circle_between_files() -> None:
    def own(name: str, target: str) -> bool:  # a folder's __init__ lists what the folder offers
        return NAMES[name].name == "__init__.py" and target.startswith(f"{name}.")

    order = TopologicalSorter(
        {name: {to for to in modules_imported(path) if not own(name, to)} for name, path in NAMES.items()}
    )
    order.prepare()
