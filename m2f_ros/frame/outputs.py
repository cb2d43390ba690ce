"""The table of outputs: each image that can be made of a frame, and how it is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # launch files need names alone
    import numpy as np


class Output(NamedTuple):
    """An image that is made of a frame.

    Attributes:
        name: of its topic, and in every choice of outputs.
        needs: what the head has to find for it: "label", "confidence" or "panoptic".
        encoding: of its messages; "" for one of values, "mono8" or "mono16" by their dtype.
        lossy: True if it may be sent as JPEG. Each value of the others means something.
        description: a part of a sentence, for help and docs.
    """

    name: str
    needs: str
    encoding: str
    lossy: bool
    description: str

    def encoding_of(self, image: np.ndarray) -> str:
        """Return the encoding of the message of this image."""
        return self.encoding or ("mono8" if image.itemsize == 1 else "mono16")


OUTPUTS = (
    Output("label", "label", "", False, "the class of each pixel, as its train id"),
    Output("overlay", "label", "bgr8", True, "the picture with each class in its colour"),
    Output("color", "label", "bgr8", False, "the colours of the classes alone"),
    Output("confidence", "confidence", "mono8", False, "the class's share of all classes' scores, 255 for all of it"),
    Output("panoptic", "panoptic", "mono16", False, "the segment of each pixel, as its id in `segments`"),
)
NAMES = tuple(output.name for output in OUTPUTS)


def needing(*needs: str) -> frozenset[str]:
    """Return the names of the outputs that need one of these."""
    return frozenset(output.name for output in OUTPUTS if output.needs in needs)
