"""The interface of what a page shows: recordings and the live node."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from m2f_ros.taxonomy import Taxonomy


@dataclass(frozen=True)
class Want:
    """The wishes of one page.

    Attributes:
        index: number of the moment in a recording.
        label: which of a camera's label topics, by its place.
        confidence: True for the confidence, too.
        paused: True while a live page keeps its picture.
    """

    index: int = 0
    label: int = 0
    confidence: bool = False
    paused: bool = False

    @classmethod
    def read(cls, asked: Any, before: Want) -> Want:
        """Return the wish in a page's JSON, over the one before. Raises ValueError."""
        if not isinstance(asked, dict):
            raise ValueError("want must be an object")
        values: dict[str, Any] = {}
        for name, kind in (("index", int), ("label", int), ("confidence", bool), ("paused", bool)):
            value = asked.get(name, getattr(before, name))
            if type(value) is not kind or (kind is int and not 0 <= value < 1 << 53):
                raise ValueError(f"{name} is {value!r:.40}")
            values[name] = value
        return cls(**values)


# Takes a JSON object for all pages, or None for a new frame; from any thread.
Tell = Callable[[dict[str, Any] | None], object]


class Feed(ABC):
    """A source of frames for pages.

    Attributes:
        live: True if frames come by themselves, False if pages ask for them by number.
    """

    live = False

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return JSON for a page that opens: `type` "state", title, cameras, legends and more. From any thread."""

    @abstractmethod
    def watch(self, wants: list[Want], tell: Tell) -> None:
        """Take note of the pages that look; without any, nothing is to be computed."""

    @abstractmethod
    def cameras(self) -> list[str]:
        """Return the names of the cameras."""

    @abstractmethod
    def frame(self, camera: str, want: Want, before: object) -> tuple[object, bytes] | None:
        """Return a frame that is not the one `before`, and its mark, to be given as `before`; None if there is none.

        It may take a while: it is called in a thread of its own.
        """

    def set(self, name: str, value: Any) -> str:
        """Set a parameter; return the reason of a refusal, or ""."""
        return "a recording has no parameters"

    @abstractmethod
    def close(self) -> None:
        """End. `watch` is not called again."""


def legend_of(taxonomy: Taxonomy) -> dict[str, Any]:
    """Return the JSON of a legend."""
    return {
        "name": taxonomy.name,
        "unlabelled": taxonomy.unlabelled,
        "classes": [
            {"id": one.id, "name": one.name, "colour": list(one.colour), "thing": one.thing} for one in taxonomy.classes
        ],
    }
