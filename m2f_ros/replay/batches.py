"""Images grouped for the network, always in the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from m2f_ros.errors import SourceError
from m2f_ros.sources.sample import Sample


@dataclass
class Batch:
    """Images that go through the network together, and the damaged ones among them.

    Attributes:
        images: all of them, in order.
        readable: those that have a frame; these are of one size for the network.
    """

    images: list[Sample] = field(default_factory=list)
    readable: list[Sample] = field(default_factory=list)

    def add(self, image: Sample) -> None:
        self.images.append(image)
        if image.frame is not None:
            self.readable.append(image)

    @property
    def end(self) -> int:
        """Number of the image behind it."""
        return self.images[-1].index + 1


def batches(
    images: Iterable[Sample], network: Callable[[int, int], tuple[int, int]], size: int, part: int
) -> Iterator[Batch]:
    """Consecutive images, `size` of them readable at most.

    A batch also ends where the network's size changes, and with a part. The images of a batch depend on those behind
    the end of the batch before alone, so that reading may begin there.

    Args:
        network: (height, width) of a frame -> of the network's input.
        part: images of a part; one ends with every image whose number + 1 is a multiple.
    Raises:
        SourceError: that of `images`, behind the batches of what came before it.
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
            if batch.readable and needed != now:
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
