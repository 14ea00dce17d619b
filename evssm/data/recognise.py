"""Which layouts a folder holds: the search for rows of the table in a tree of folders."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from evssm.data.layouts import EXAMPLES, PLAIN, SPECIAL, Layout
from evssm.data.published import SPLITS, named_dataset, named_sequence

DEEPEST = 6
"""Levels below the root that are searched."""

_HALVES = {"blur_gamma", *(role.lower() for row in PLAIN for role in (row.single, row.sharp))}
_VIEW = re.compile(r"(train|val|test)_[clr]", re.IGNORECASE)  # of DPDD, whose targets lie there three times


@dataclass(frozen=True)
class Group:
    """Folders (or databases) that hold the images of pairs, and what their place and names say of them."""

    layout: str
    base: Path
    sharp: Path
    single: Path | None
    left: Path | None
    right: Path | None
    dataset: str | None
    split: str | None
    scene: str | None
    variant: str
    crops: bool
    storage: str
    shared: bool

    @property
    def blurred(self) -> tuple[Path, ...]:
        return tuple(folder for folder in (self.single, self.left, self.right) if folder)


class Trouble(NamedTuple):
    """A folder that could not be searched or belongs to nothing, and why."""

    folder: Path
    why: str

    def __str__(self) -> str:
        return f"{self.folder} {self.why}"


@dataclass(frozen=True)
class Found:
    """The groups under a root, and the folders that are none but should be."""

    groups: tuple[Group, ...]
    trouble: tuple[Trouble, ...]


def recognise(root: str | Path) -> Found:
    """Every group of folders under `root` (up to `DEEPEST` levels) that one row of the tables describes.

    Names of folders count whatever their case. Raises `FileNotFoundError` or `ValueError`, in one line, for a root
    that is no folder, that holds nothing known, or that can be understood in two ways.
    """
    root = _existing_folder(root)
    trouble: list[Trouble] = []
    groups: list[Group] = []
    halves: list[Path] = []
    claimed: set[Path] = set()
    for base, names in _folders(root, trouble, claimed):
        for group in list(_groups_at(base, names, claimed)):
            groups.append(group)
            claimed.update((*group.blurred, group.sharp))
        halves += [base / name for role in names.keys() & _HALVES for name in names[role]]
    if not groups:
        raise ValueError(_nothing_known(root, trouble))
    for half in sorted(halves):
        if half not in claimed and not _VIEW.fullmatch(half.parent.name):
            trouble.append(Trouble(half, "is one half of pairs, and the folder of the other is missing"))
    return Found(tuple(groups), tuple(trouble))


def _existing_folder(root: str | Path) -> Path:
    path = Path(os.path.abspath(root))  # noqa: PTH100 (as the user names it: links unresolved, but no `..`)
    if path.is_file():
        raise ValueError(
            f"{root} is a file, where the folder of a data set was asked for; unpack it or name its folder"
        )
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder {root}; check the path, or see `evssm data list` for layouts")
    return path


def _nothing_known(root: Path, trouble: list[Trouble]) -> str:
    names = sorted(entry.name for entry in root.iterdir())
    found = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "") if names else "nothing"
    roles = {part for row in (*SPECIAL, *PLAIN) for part in (row.sharp, row.single, row.left, row.right)}
    hint = f"; {root.name} alone is one half of a pair, so name the folder above it" if root.name in roles else ""
    known = "; ".join(f"{name}: {example}" for name, example in EXAMPLES)
    unread = f"; {'; '.join(map(str, trouble))}" if trouble else ""
    return f"no known layout under {root}, which holds {found}{hint}{unread}. Known: {known}"


def _folders(root: Path, trouble: list[Trouble], claimed: set[Path]) -> Iterator[tuple[Path, dict[str, list[str]]]]:
    """Folders from the root down, each with its sub-folders by lower-case name; not those claimed meanwhile."""
    waiting: list[tuple[Path, tuple[str, ...]]] = [(root, (os.path.realpath(root),))]
    while waiting:
        base, above = waiting.pop(0)
        if base in claimed:
            continue
        try:
            names = sorted(entry.name for entry in os.scandir(base) if entry.name[0] != "." and _is_folder(entry))
        except OSError as error:
            trouble.append(Trouble(base, f"cannot be searched: {error.strerror}"))
            continue
        by_lower: dict[str, list[str]] = {}
        for name in names:
            real = os.path.realpath(base / name)
            if real in above:
                trouble.append(Trouble(base / name, "is a link to a folder above it, and is not followed"))
                continue
            by_lower.setdefault(name.lower(), []).append(name)
            if len(above) <= DEEPEST:
                waiting.append((base / name, (*above, real)))
        yield base, by_lower


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _groups_at(base: Path, names: dict[str, list[str]], claimed: set[Path]) -> Iterator[Group]:
    """The groups whose base is this folder."""
    taken: set[Path] = set()
    for row in SPECIAL:
        if row.within not in ("", base.name.lower()) or (row.beside and row.beside not in names):
            continue
        if row.named and named_dataset(base.name) != row.dataset and not taken:
            continue
        group = _group(row, base, names)
        if group is None or claimed & {*group.blurred, group.sharp}:
            continue
        if any(held == folder or held.is_relative_to(folder) for held in taken for folder in group.blurred):
            continue
        yield group
        taken.update((*group.blurred, group.sharp))
    free = claimed | taken
    plain = [group for row in PLAIN if (group := _group(row, base, names)) and not free & {*group.blurred, group.sharp}]
    for kind in sorted({(group.crops, group.storage) for group in plain}):
        alike = [group for group in plain if (group.crops, group.storage) == kind]
        if len(alike) > 1:
            ways = " and ".join(f"{{{g.layout}}}" for g in alike)
            raise ValueError(f"{base} can be read as {ways}; move what does not belong to the pairs elsewhere")
        yield alike[0]


def _group(row: Layout, base: Path, names: dict[str, list[str]]) -> Group | None:
    """The group that a row describes here, if its folders exist."""
    sharp = _place(base, names, row.sharp)
    single, left, right = (_place(base, names, part) if part else None for part in (row.single, row.left, row.right))
    if sharp is None or not (single or left or right):
        return None
    of_scenes = row.sharp in ("sharp", "gt")
    place = _said_by_names(base, of_scenes=of_scenes)
    if row.dataset and place.dataset and row.dataset != place.dataset:
        raise ValueError(f"{base} is named as {place.dataset} and laid out as {row.name}; rename it")
    scene = place.scene
    if row.variant == "blur_gamma" or row.beside:
        scene = scene or (base.name if not (named_dataset(base.name) or SPLITS.get(base.name.lower())) else None)
    return Group(
        layout=row.name,
        base=base,
        sharp=sharp,
        single=single,
        left=left,
        right=right,
        dataset=row.dataset or place.dataset,
        split=row.split or place.split,
        scene=scene,
        variant=row.variant,
        crops=row.ending.startswith("_crops"),
        storage="lmdb" if row.ending.endswith(".lmdb") else "files",
        shared=row.shared,
    )


def _place(base: Path, names: dict[str, list[str]], part: str) -> Path | None:
    """The sub-folder of that name, in any case; `ValueError` where two differ by case only."""
    first, _, rest = part.partition("/")
    found = names.get(first.lower(), [])
    if len(found) > 1:
        raise ValueError(f"{base} holds {' and '.join(found)}, which differ only by case; keep one")
    if not found or not rest:
        return base / found[0] if found else None
    below = base / found[0]
    try:
        inner = [entry.name for entry in os.scandir(below) if _is_folder(entry)]
    except OSError:
        return None
    return _place(below, {name.lower(): [n for n in inner if n.lower() == name.lower()] for name in inner}, rest)


class _Place(NamedTuple):
    dataset: str | None = None
    split: str | None = None
    scene: str | None = None


def _said_by_names(base: Path, *, of_scenes: bool) -> _Place:
    """What the folder and those above it are called: SPLIT/DATASET, DATASET/SPLIT, either alone, a scene below them.

    Under `test`, the unknown NAME/{blur,sharp} is a scene as in GoPro, and NAME/{input,target} a data set as in MPRNet.
    """
    names = [base.name, *(folder.name for folder in base.parents)][:3]
    place = _Place()
    here = names[0]
    if not (named_dataset(here) or SPLITS.get(here.lower())):
        above = names[1] if len(names) > 1 else ""
        sequence = named_sequence(here)
        if sequence or (of_scenes and (SPLITS.get(above.lower()) or named_dataset(above))):
            place = _Place(dataset=sequence, scene=here)
        elif not SPLITS.get(above.lower()):
            return place
        names = names[1:]
    for name in names[:2]:
        if SPLITS.get(name.lower()) and place.split is None:
            place = place._replace(split=SPLITS[name.lower()])
        elif named_dataset(name) and place.dataset is None:
            place = place._replace(dataset=named_dataset(name))
        else:
            break
    return place
