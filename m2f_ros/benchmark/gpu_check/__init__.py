"""Everything that a GPU is needed for, in one command and a bounded time: `m2f gpu-check`, `make gpu-check`.

`check(Options(...))` runs parts one after the other, each in a process of its own with a deadline of its own. What a
part found is written before the next one starts, so that a kill loses nothing.
"""

from m2f_ros.benchmark.gpu_check.runner import KIND, Options, check, passed

__all__ = ["KIND", "Options", "check", "passed"]
