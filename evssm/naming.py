"""Our state-dict keys and the official repositories' keys, side by side."""

import re

from torch import nn

from evssm.models.description import Naming


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

    return {official: pairs[official] for official in sorted(pairs, key=place)}
