"""What lies in a folder (or database) of images, and which of two such folders belong together by name."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from evssm.data.lmdb import LmdbImages, LmdbPicture
from evssm.data.pictures import READ_SUFFIXES, FilePicture, Picture

_LEFT_BY_SYSTEMS = ("thumbs.db", "desktop.ini")
_ROLE = re.compile(
    r"(?<![^\W_])(?:blur|blurred|blurry|gt|sharp|input|target|source|left|right|l|r|c)(?![^\W_])", re.IGNORECASE
)


@dataclass(frozen=True)
class Contents:
    """The images by name (without suffix), in order, and what else there is: `strange` files that are no images by
    suffix, sub-`folders`, `broken` links, `doubled` names (a.png beside a.jpg), `capitals` in suffixes."""

    pictures: Mapping[str, Picture]
    strange: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    capitals: list[str] = field(default_factory=list)


def contents(folder: Path, storage: str) -> Contents:
    """What a folder, or a database where `storage` is "lmdb", holds; nothing is opened yet but the database."""
    if storage == "lmdb":
        images = LmdbImages(folder)
        return Contents({key: LmdbPicture(images, key) for key in images.claims})
    pictures: dict[str, Picture] = {}
    found = Contents(pictures)
    for name in sorted(os.listdir(folder)):  # noqa: PTH208 (names are enough)
        path, suffix = folder / name, PurePosixPath(name).suffix
        if name.startswith(".") or name.lower() in _LEFT_BY_SYSTEMS:
            continue
        if os.path.isdir(path):  # noqa: PTH112 (says False of a link to itself, where Path.is_dir may raise)
            found.folders.append(name)
        elif not os.path.exists(path):  # noqa: PTH110 (likewise)
            found.broken.append(name)
        elif suffix.lower() not in READ_SUFFIXES:
            found.strange.append(name)
        elif name.removesuffix(suffix) in pictures:
            found.doubled.append(name)
        else:
            pictures[name.removesuffix(suffix)] = FilePicture(path)
            if suffix != suffix.lower():
                found.capitals.append(name)
    return found


BY_NAME, BY_BARE_NAME, BY_ORDER, NOT = "by name", "by name without role", "in sorted order", "not at all"


def partners(names: list[str], others: list[str], *, by_order: bool) -> tuple[str, dict[str, str]]:
    """How two lists of names were matched, and the partner of each name that has one.

    By equal names; where not a single one is equal, without the words that tell the two apart (`blur_1` and `gt_1`);
    where that fails and `by_order` is allowed, one by one in sorted order, if there are as many: the two shots of a
    DPDD scene have numbers of their own.
    """
    equal = set(names) & set(others)
    if equal:
        return BY_NAME, {name: name for name in names if name in equal}
    bare, bare_others = _bare(names), _bare(others)
    if bare.keys() & bare_others.keys():
        return BY_BARE_NAME, {name: bare_others[key] for key, name in bare.items() if key in bare_others}
    if by_order and names and len(names) == len(others):
        return BY_ORDER, dict(zip(sorted(names), sorted(others), strict=True))
    return NOT, {}


def bare_name(name: str) -> str:
    """The name without the words that say which half of a pair it is: `1` for `blur_1`, `7_a` for `7_left_a`."""
    return re.sub(r"[\s_.-]+", "_", _ROLE.sub("", name)).strip("_")


def _bare(names: list[str]) -> dict[str, str]:
    """Bare name -> name; nothing where two names become one."""
    found = {bare_name(name): name for name in names}
    return found if len(found) == len(names) and "" not in found else {}
