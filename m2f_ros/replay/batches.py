"""Deterministic batches of images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from m2f_ros.errors import SourceError
from m2f_ros.sources.sample import Sample


@dataclass
class Batch:
    """Consecutive images for one call of the network, and damaged ones among them.

    Attributes:
        images: all images, in order.
        readable: images with a frame, all of one network size.
    """

    images: list[Sample] = field(default_factory=list)
    readable: list[Sample] = field(default_factory=list)

    def add(self, image: Sample) -> None:
        self.images.append(image)
        if image.frame is not None:
            self.readable.append(image)

    @property
    def end(self) -> int:
        """Number of the first image after the batch."""
        return self.images[-1].index + 1


def batches(
    images: Iterable[Sample],
    network: Callable[[int, int], tuple[int, int]],
    size: int,
    part: int,
    apart: bool = False,
) -> Iterator[Batch]:
    """Yield batches of consecutive images, at most `size` readable ones each.

    A batch also ends at a change of the network's size, before a second image of a camera if `apart`, and at the end of
    a part. Its images do not depend on earlier
    batches: reading may restart at its beginning.

    Args:
        network: function from (height, width) of a frame to that of the network's input.
        part: number of images in a part; parts end at its multiples.
        apart: True for batches of different cameras, for a network whose results depend on a camera's frames before.
    Raises:
        SourceError: error of `images`, raised after the batches before it.
    """
    batch, now = Batch(), None
    error = None
    images = iter(images)
    while True:
        try:
            image = next(images)
        except StopIteration:
            break
        except SourceError as caught:
            error = caught
            break
        if image.frame is not None:
            needed = network(*image.frame.size)
            again = apart and any(image.camera == other.camera for other in batch.readable)
            if batch.readable and (needed != now or again):
                yield batch
                batch = Batch()
            now = needed
        batch.add(image)
        if len(batch.readable) == size or batch.end % part == 0:
            yield batch
            batch = Batch()
    if batch.images:
        yield batch
    if error:
        raise error
