"""Where frames come from: bags, folders, videos, devices, the simulated street."""
