"""The ROS nodes. The only package that imports rclpy."""
