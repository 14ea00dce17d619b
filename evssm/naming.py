"""Our state-dict keys and the official repositories' keys, side by side."""

import re
from collections.abc import Mapping
from typing import TypeVar

from torch import nn

from evssm.models.description import Naming

T = TypeVar("T")


def official_keys(net: nn.Module, naming: Naming) -> dict[str, str]:
    """Official key -> our key, for every tensor of `net`, in the order of the official state dict."""
    pairs = {}
    for ours in net.state_dict():
        official = ours
        for pattern, replacement in naming.renames:
            official = re.sub(pattern, replacement, official)
        pairs[official] = ours

    def place(official: str) -> int:
        starts = [i for i, start in enumerate(naming.order) if official == start or official.startswith(f"{start}.")]
        return starts[0] if starts else len(naming.order)

    ordered = sorted(pairs, key=place)
    return {naming.numbered.format(i) if naming.numbered else key: pairs[key] for i, key in enumerate(ordered)}


def entries_read(entries: Mapping[str, T], naming: Naming) -> dict[str, T]:
    """What the official network reads of a released file, under its state dict's keys."""
    read = {key: value for key, value in entries.items() if not re.fullmatch(naming.unread, key)}
    whole = all(key.startswith(naming.prefix) for key in read)
    return {key.removeprefix(naming.prefix) if whole else key: value for key, value in read.items()}
