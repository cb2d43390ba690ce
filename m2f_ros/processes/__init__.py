"""Processes of this package: environment, workers, and their end."""
