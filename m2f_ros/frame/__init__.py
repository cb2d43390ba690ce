"""Frames: what a frame is, and how encodings, pictures and cameras are read."""
