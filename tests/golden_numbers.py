"""Golden numbers of one file, and networks with the golden weights."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from weight_rule import ruled_state

from evssm.models.description import Naming
from evssm.naming import official_keys


class Golden:
    """The numbers of `golden/<file>`: each array at every n-th place, about 48 of them."""

    def __init__(self, file: str) -> None:
        self.arrays = np.load(Path(__file__).parent / "golden" / file)

    def distance(self, found: Tensor, name: str) -> float:
        """Relative L2 distance between `found`, taken at the same places, and the stored numbers."""
        wanted, flat = self.arrays[name].astype(np.float64), found.detach().numpy().reshape(-1)
        return float(np.linalg.norm(flat[:: flat.size // 48 | 1] - wanted) / np.linalg.norm(wanted))


def official_shapes(net: nn.Module, naming: Naming) -> dict[str, tuple[int, ...]]:
    own = net.state_dict()
    return {official: tuple(own[ours].shape) for official, ours in official_keys(net, naming).items()}


def with_ruled_weights(net: nn.Module, naming: Naming, overrides: Mapping[str, Tensor] | None = None) -> nn.Module:
    """`net` with the golden weights, in float64, ready for use; `overrides` replace the rule's for some keys."""
    state, keys = {**ruled_state(official_shapes(net, naming)), **(overrides or {})}, official_keys(net, naming)
    net.load_state_dict({keys[official]: value for official, value in state.items()})
    return net.to(torch.float64).eval().requires_grad_(False)
