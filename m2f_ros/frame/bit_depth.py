"""How many of 16 bits a camera uses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from m2f_ros.errors import ConfigError
from m2f_ros.frame.pictures import bits_of, used

AUTO = 0
DEPTHS = (AUTO, 10, 12, 14, 16)


class BitDepth:
    """The bits that a camera's uint16 images use, counted from the low end: as set, or by all values so far.

    By the values, their number only grows, except for values that first seem to be shifted to the high end. Each change
    is said.

    Attributes:
        learns: True if earlier images decide on later ones.
    """

    def __init__(self, setting: int, say: Callable[[str], None]) -> None:
        """setting: one of DEPTHS. say: takes a line for the log. Raises ConfigError for another setting."""
        if setting not in DEPTHS:
            wanted = ", ".join(map(str, DEPTHS[1:]))
            raise ConfigError(f"bit_depth is {setting}; take {AUTO}, by the values that come, or one of {wanted}")
        self._setting, self._say = setting, say
        self._bits = setting or 16
        self._seen = 0
        self.learns = False

    def __call__(self, image: np.ndarray) -> int:
        """Return the bits used by the camera's next image, uint16."""
        if self._setting == 16 or self._seen.bit_length() > min(self._bits, 14):
            return self._bits  # nothing that comes can change it any more
        before, self._seen = self._seen, self._seen | used(image)
        if self._setting:
            if self._seen.bit_length() > self._bits:
                self._say(f"values exceed bit_depth {self._bits} and are white; set what the camera has, or {AUTO}")
            return self._bits
        self.learns = True
        bits = bits_of(self._seen)
        if self._seen and (bits != self._bits or not before):
            change = f", no longer {self._bits}," if before else ""
            self._say(f"{bits} of the 16 bits{change} are taken as used, by the values so far; bit_depth sets another")
        self._bits = bits
        return bits
