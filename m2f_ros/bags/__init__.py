"""Reads and writes rosbag2 bags, also damaged ones."""
