"""`m2f replay`: every frame of recorded drives through the pipeline, into a rosbag2."""
