"""Processes of this package: their environment, their workers, and how they end."""
