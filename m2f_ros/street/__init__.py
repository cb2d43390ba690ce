"""The simulated street: procedurally drawn drives with exact labels, instances and depth."""

from m2f_ros.street.street import Street, StreetFrame

__all__ = ["Street", "StreetFrame"]
