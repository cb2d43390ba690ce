"""This pipeline against others, measured: `m2f bench`, and the page made from its results.

`run(Settings(...))` gives a `Result`; `write` and `read` are its JSON; `report` makes docs/benchmarks.md of many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from m2f_ros.benchmark.result import Result, Settings, read, write

if TYPE_CHECKING:
    from m2f_ros.benchmark.runner import run

__all__ = ["Result", "Settings", "read", "run", "write"]


def __getattr__(name: str) -> object:
    # A report needs results only; torch, which a run imports, takes seconds.
    if name == "run":
        from m2f_ros.benchmark.runner import run

        return run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
