"""Recordings in other viewers."""
