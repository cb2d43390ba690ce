"""Predictions against ground truth: pairing, scores, reports. Never imports rclpy."""
