"""Drives through the pipeline into bags, sources into bags, and the demo. Never imports rclpy."""
