"""The way of a frame through segmentation_node, from its message to its outputs."""
