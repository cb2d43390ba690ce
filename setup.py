"""The packages; the rest is declared in pyproject.toml."""

from setuptools import find_namespace_packages, setup

# The definitions of the messages, which bags carry, stay where ROS looks for them. In a wheel they are in the package.
setup(
    packages=[*find_namespace_packages(include=["m2f_ros*"]), "m2f_ros.definitions"],
    package_dir={"m2f_ros.definitions": "msg"},
)
