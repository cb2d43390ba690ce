"""Labels in space: camera models, transforms, labelled points and lidars, the grid of the ground. No ROS."""
