"""This pipeline against others, measured: `m2f bench` and its page, `m2f soak` and its page, `m2f gpu-check`."""
