"""The simulated street: procedurally drawn drives with exact labels, instances and depth."""

from .street import Street, StreetFrame

__all__ = ["Street", "StreetFrame"]
