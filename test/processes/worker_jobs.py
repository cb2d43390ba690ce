"""Jobs of workers in the tests, in a module that their processes can import."""

import os
import signal
import tempfile
from pathlib import Path


def square(job, folder, deadly=None, times=0):
    """job squared; whoever takes the deadly one dies, the first `times` times. Leaves a file for each beginning."""
    tempfile.mkstemp(dir=folder, prefix=f"{job}_")
    if job == deadly and len(list(Path(folder).glob(f"{job}_*"))) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return job**2
