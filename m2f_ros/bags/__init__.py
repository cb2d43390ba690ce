"""rosbag2 bags, read and written, damaged ones too."""
