"""Put this interpreter's include folders into the CMake exports of the ROS 2 wheels in this virtual environment.

The wheels were built on another machine, and their exports have the include folders of its Python and NumPy. With
these a package that generates messages does not configure. Run this file with the interpreter of the environment;
a second run changes nothing.
"""

import re
import sys
import sysconfig
from pathlib import Path

PYTHON_INCLUDE = re.compile(r"/opt/python/cp\d+-cp\d+/include/python3\.\d+")
NUMPY_INCLUDE = re.compile(r"/opt/python/cp\d+-cp\d+/lib/python3\.\d+/site-packages/numpy/_?core/include")


def repaired(text: str, python_include: str, numpy_include: str) -> str:
    """The text of a CMake export with both include folders replaced."""
    text = NUMPY_INCLUDE.sub(lambda _: numpy_include, text)
    return PYTHON_INCLUDE.sub(lambda _: python_include, text)


def main() -> None:
    import numpy

    changed = 0
    for path in Path(sys.prefix, "share").rglob("*.cmake"):
        before = path.read_text()
        after = repaired(before, sysconfig.get_path("include"), numpy.get_include())
        if after != before:
            path.write_text(after)
            changed += 1
    print(f"repaired {changed} CMake exports under {sys.prefix}/share")


if __name__ == "__main__":
    main()
