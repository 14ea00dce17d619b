"""What the published data sets are called, how many pairs they have, and how their images are stored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

SPLITS = {"train": "train", "test": "test", "val": "val", "valid": "val", "validation": "val"}
"""Folder name in lower case -> split."""


class Published(NamedTuple):
    """`counts`: pairs by split; `size`: pixels of every image (h, w), where all are alike; `known`: counts of copies
    that are known to be incomplete, and what is known of them; `crops`: what 512 x 512 crops every 256 pixels give."""

    counts: Mapping[str, int]
    bits: int
    size: tuple[int, int] | None = None
    known: Mapping[int, str] = {}
    crops: Mapping[str, int] = {}


PUBLISHED: Mapping[str, Published] = {
    # Nah et al., CVPR 2017; a frame of 720 x 1280 gives 2 x 4 crops
    "GoPro": Published({"train": 2103, "test": 1111}, 8, (720, 1280), crops={"train": 8 * 2103}),
    # Shen et al., ICCV 2019
    "HIDE": Published(
        {"train": 6397, "test": 2025},
        8,
        (720, 1280),
        dict.fromkeys((1079, 942), "as in an incomplete copy that is passed around (MPRNet issue 27)"),
    ),
    # Rim et al., ECCV 2020: J is what the camera wrote, R was developed from its raw values
    "RealBlur-J": Published({"train": 3758, "test": 980}, 8),
    "RealBlur-R": Published({"train": 3758, "test": 980}, 8),
    # Abuolaim and Brown, ECCV 2020
    "DPDD": Published({"train": 350, "val": 74, "test": 76}, 16, (1120, 1680)),
}
"""Data set -> its facts."""

_NAMES = {
    "GoPro": r"go[-_ ]?pro([-_ ].*)?",
    "HIDE": r"hide([-_ ].*)?",
    "RealBlur-J": r"real[-_ ]?blur[-_ ]?j([-_ ].*)?",
    "RealBlur-R": r"real[-_ ]?blur[-_ ]?r([-_ ].*)?",
    "DPDD": r"dpdd([-_ ].*)?|dd[-_]dp[-_]dataset.*",
}
_SEQUENCES = {"GoPro": r"gopr\d+_\d+_\d+"}


def named_dataset(name: str) -> str | None:
    """The published data set that a folder (or a user) calls so, `None` for any other name."""
    return _first(_NAMES, name)


def named_sequence(name: str) -> str | None:
    """The data set whose sequences are named like that."""
    return _first(_SEQUENCES, name)


def _first(patterns: Mapping[str, str], name: str) -> str | None:
    return next((key for key, pattern in patterns.items() if re.fullmatch(pattern, name, re.IGNORECASE)), None)
