"""Recorded and simulated camera data: sources, the simulated street, evaluation. Never imports rclpy."""
