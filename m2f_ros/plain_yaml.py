"""YAML that a program wrote, from a file that anybody may have made: texts in lists and mappings."""

from __future__ import annotations

from typing import Any

import yaml

_LONGEST = 4 << 20  # bytes
_EVENTS, _DEPTH = 200_000, 50

_Loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


def load_plain(text: str) -> Any:
    """str, list and dict; numbers, too, are text. Raises ValueError, in one line, for all that cannot be read.

    Aliases, by which a short text means any amount of data, are refused; so are 4 MiB, or a depth of 50, and more.
    """
    if len(text) > _LONGEST:
        raise ValueError(f"more than {_LONGEST >> 20} MiB")
    depth = 0
    try:
        # Events come one by one; what makes objects of them calls itself for every level.
        for number, event in enumerate(yaml.parse(text, Loader=_Loader)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEPTH or number > _EVENTS or isinstance(event, yaml.AliasEvent):
                raise ValueError("deeper, longer or more entangled than any that a program writes")
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from None
