"""What the table of networks says about each of them."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

Shapes = Mapping[str, tuple[int, ...]]
"""Key of a state dict -> shape of its tensor."""


@dataclass(frozen=True)
class Naming:
    """How the keys of an official repository's state dict follow from ours.

    `renames` are pairs (regular expression, replacement as `re.sub` takes it) that turn one of our keys into the
    official one, all applied, in this order. `order` lists the beginnings of official keys in the order of the
    official state dict; keys that share a beginning keep the order in which our modules register them. Released files
    may have `prefix` before every key, and entries that match the regular expression `unread` whole, which the official
    network never reads at inference: they are passed over. Where the official weights are a list, `numbered` makes keys
    of their places ("arr_{}"), and `order` speaks of the keys before that.
    """

    renames: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = ()
    order: tuple[str, ...] = ()
    prefix: str = ""
    unread: str = ""
    numbered: str = ""


@dataclass(frozen=True)
class Model:
    """One entry of `MODELS`: what the network is, where it comes from, how to make it and to read its official
    weights.

    `arguments` are the keyword arguments of this variant; `infer` finds the arguments that the shapes of an official
    state dict determine; `naming` is `None` where no official repository has such a network.
    """

    summary: str
    source: str
    network: Callable[..., nn.Module]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    naming: Naming | None = Naming()
    infer: Callable[[Shapes], dict[str, Any]] = lambda shapes: {}


@dataclass(frozen=True)
class Recipe:
    """How `build` made a network: its name in `MODELS` and the keyword arguments that differ from that entry's."""

    name: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
