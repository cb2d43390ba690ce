"""Everything that a GPU is needed for, in one command and a bounded time: `m2f gpu-check`, `make gpu-check`."""
