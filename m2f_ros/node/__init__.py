"""From topics to the pipeline and back. The only room that imports rclpy."""
