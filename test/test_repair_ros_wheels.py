import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "repair_ros_wheels.py"
EXPORT = '  INTERFACE_INCLUDE_DIRECTORIES "{};{}"\n'


@pytest.mark.parametrize("tag, version, core", [("cp310", "3.10", "core"), ("cp313", "3.13", "_core")])
def test_both_include_folders_are_replaced(tag: str, version: str, core: str) -> None:
    repaired = runpy.run_path(str(SCRIPT))["repaired"]
    leaked = EXPORT.format(
        f"/opt/python/{tag}-{tag}/include/python{version}",
        f"/opt/python/{tag}-{tag}/lib/python{version}/site-packages/numpy/{core}/include",
    )
    wanted = EXPORT.format(r"/here/include/\1", "/here/numpy")
    assert repaired(leaked, r"/here/include/\1", "/here/numpy") == wanted
    assert repaired(wanted, "/elsewhere", "/elsewhere") == wanted
