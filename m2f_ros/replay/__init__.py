"""Replays drives through the pipeline into bags, writes sources into bags, and runs the demo. Never imports rclpy."""
