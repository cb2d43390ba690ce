"""Sources of frames: bags, folders, videos, devices, the simulated street."""
