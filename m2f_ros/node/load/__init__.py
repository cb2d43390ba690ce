"""Load for segmentation_node: hostile cameras, the soak, and the measurement of its own CPU time."""
