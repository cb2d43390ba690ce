"""Tests as a part of the check: pytest, with an account of each test."""

from __future__ import annotations

import importlib.util
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from m2f_ros.benchmark.gpu_check.plan import FailedPart

LONGEST = 10  # tests whose time is noted
TEXT = 4000  # characters of a failed test's traceback
Note = Callable[[dict], None]


class Account:
    """A plugin of pytest: notes the outcome of each test as soon as it is known, so that a kill loses nothing.

    few: number of cases of each test that are run; 0: all.
    """

    def __init__(self, note: Note, few: int):
        self._note, self._few = note, few
        self._outcomes: dict[str, str] = {}
        self._skips: Counter[str] = Counter()
        self._failures: dict[str, str] = {}
        self._seconds: Counter[str] = Counter()

    def pytest_collection_modifyitems(self, items: list) -> None:
        if self._few:
            cases: dict[str, list] = {}
            for item in items:
                cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
            items[:] = [item for of_one in cases.values() for item in of_one[: self._few]]

    def pytest_collectreport(self, report: Any) -> None:
        if not report.passed:
            self._add(report)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self._seconds[report.nodeid] += report.duration
        if report.when == "call" or not report.passed:
            self._add(report)

    def _add(self, report: Any) -> None:
        """Add a module that was not imported, a test, or a set-up or tear-down that did not pass."""
        self._outcomes[report.nodeid] = report.outcome
        if report.failed:
            self._failures[report.nodeid] = report.longreprtext[-TEXT:]  # the end says what was wrong
        elif report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else getattr(report, "wasxfail", "")
            self._skips[reason.removeprefix("Skipped: ")] += 1
        self._note(self.found())

    def found(self) -> dict:
        """Numbers of tests by outcome, reasons of skips, the end of each failure's text, and the longest tests."""
        counts = Counter(self._outcomes.values())
        return {
            "collected": len(self._outcomes),
            **{name: counts[name] for name in ("passed", "failed", "skipped")},
            "skips": dict(self._skips),
            "failures": self._failures,
            "longest_s": {test: round(value, 2) for test, value in self._seconds.most_common(LONGEST)},
        }


def run_tests(arguments: dict, note: Note) -> None:
    """pytest with the tests at `paths` of the checkout that is the current folder."""
    # Tests of kernels switch torch's deterministic algorithms on, which cuBLAS takes part in with this alone.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    account = Account(note, arguments.get("few") or 0)
    ignored = [f"--ignore={path}" for path in arguments.get("ignore", ())]
    # Triton compiles kernels on one core each.
    workers = arguments.get("workers") if importlib.util.find_spec("xdist") else None
    spread = ["-n", str(workers)] if workers else []
    options = ["-v", "-m", "not slow", "-p", "no:cacheprovider", *ignored, *spread]
    code = pytest.main([*arguments["paths"], *options], plugins=[account])
    found = account.found()
    note(found)
    if found["failed"]:
        raise FailedPart(f"{found['failed']} of {found['collected']} tests failed, first {min(found['failures'])}")
    # Where all modules are skipped no test is collected, and that is no fault.
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED) or not found["collected"]:
        raise FailedPart(f"pytest ended with {code!r} and {found['collected']} tests")
