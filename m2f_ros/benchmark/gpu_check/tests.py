"""pytest inside a part, with an account of every test that is kept while it runs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from m2f_ros.errors import ConfigError

LONGEST = 10  # tests whose time is noted


class FailedTests(Exception):
    """Some did."""


class Account:
    """A plugin of pytest that notes what became of every test.

    Args:
        few: of the cases of each test so many are taken; None: all.
        note: takes the account; at most twice a second.
    """

    def __init__(self, few: int | None, note: Callable[[dict], None]):
        self._few, self._note = few, note
        self._noted = 0.0
        self._outcomes: dict[str, str] = {}
        self._seconds: Counter[str] = Counter()
        self._skipped: Counter[str] = Counter()
        self._failures: dict[str, str] = {}
        self.collected = 0

    def pytest_collection_modifyitems(self, items: list) -> None:
        if self._few is not None:
            seen: Counter[str] = Counter()
            kept = []
            for item in items:
                function = item.nodeid.partition("[")[0]
                seen[function] += 1
                if seen[function] <= self._few:
                    kept.append(item)
            items[:] = kept
        self.collected = len(items)

    def pytest_collectreport(self, report) -> None:
        if report.failed:
            self._fail(report)
        elif report.skipped:
            self._skip(report)

    def pytest_runtest_logreport(self, report) -> None:
        self._seconds[report.nodeid] += report.duration
        if report.failed:
            self._fail(report)
        elif report.skipped:
            self._skip(report)
        elif report.when == "call":
            self._outcomes[report.nodeid] = "passed"
        if time.monotonic() - self._noted > 0.5:
            self._note(self.content())
            self._noted = time.monotonic()

    def _fail(self, report) -> None:
        self._outcomes[report.nodeid] = "failed"
        # The end of it says what was wrong, the rest is where.
        self._failures[report.nodeid] = report.longreprtext[-1500:]

    def _skip(self, report) -> None:
        self._outcomes[report.nodeid] = "skipped"
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        self._skipped[reason.removeprefix("Skipped: ")] += 1

    def content(self) -> dict:
        """passed, failed, skipped: how many. skips: reason -> how many. failures: test -> the end of its report."""
        counts = Counter(self._outcomes.values())
        return {
            "collected": self.collected,
            **{name: counts[name] for name in ("passed", "failed", "skipped")},
            "skips": dict(self._skipped),
            "failures": self._failures,
            "longest_s": {test: round(seconds, 2) for test, seconds in self._seconds.most_common(LONGEST)},
        }


def run_tests(paths: Sequence[str], ignore: Sequence[str], few: int | None, note: Callable[[dict], None]) -> None:
    """Run the tests at these paths of the checkout that is the current folder.

    Raises:
        ConfigError: they are not there, or pytest is not.
        FailedTests: some failed, or none was found.
    """
    for path in paths:
        if not Path(path).exists():
            raise ConfigError(f"{path} is not in {Path.cwd()}: run this in the root of a checkout")
    try:
        import pytest
    except ImportError as error:
        raise ConfigError(f"the tests need pytest ({error}): pip install pytest hypothesis") from None
    account = Account(few, note)
    options = ["-q", "-p", "no:cacheprovider", *(f"--ignore={path}" for path in ignore)]
    code = pytest.main([*paths, *options], plugins=[account])
    content = account.content()
    note(content)
    if content["failed"]:
        first = next(iter(content["failures"]))
        raise FailedTests(f"{content['failed']} of {content['collected']} tests failed, first {first}")
    # All modules skipped: no test was collected, and that is no fault.
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED) or not (
        account.collected or content["skipped"]
    ):
        raise FailedTests(f"pytest ended with {code!r} and {account.collected} tests")
