"""The data sets under a folder: groups that belong together, what they are called, and their items."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path, PurePosixPath

from evssm.data.contents import bare_name
from evssm.data.listing import Listing, list_items
from evssm.data.published import SPLITS, named_dataset
from evssm.data.recognise import Group, Trouble, recognise

SINGLE, DUAL = "single", "dual-pixel"
MODES: Mapping[str, tuple[str, ...]] = {SINGLE: ("single",), DUAL: ("left", "right")}
"""Mode -> the blurred views that a network gets, side by side in its channels."""


@dataclass(frozen=True)
class Label:
    """What a table must say of the images behind its numbers; `str()` is one line."""

    dataset: str | None
    split: str | None
    variant: str
    mode: str | None
    crops: bool
    storage: str
    layout: str
    folder: str

    def __str__(self) -> str:
        folder = Path(self.folder)
        own = folder.parent.name if SPLITS.get(folder.name.lower()) else folder.name
        name = " ".join(part for part in (self.dataset or own, self.split) if part)
        more = [self.variant if self.dataset == "GoPro" or self.variant != "blur" else "", self.mode or ""]
        more += ["crops" if self.crops else "", "LMDB" if self.storage == "lmdb" else ""]
        said = ", ".join(part for part in more if part)
        return f"{name} ({said})" if said else name


@dataclass(frozen=True)
class PairSet:
    """One split of one data set as it lies on disk.

    `lists` are the names of each split where a file lists them; `where` is what findings call it.
    """

    label: Label
    groups: tuple[Group, ...]
    lists: Mapping[str, frozenset[str]] = field(default_factory=dict)
    where: str = ""

    @property
    def roles(self) -> frozenset[str]:
        """The blurred views that there are: of `single`, `left`, `right`."""
        return frozenset(role for role in ("single", "left", "right") if all(getattr(g, role) for g in self.groups))

    @cached_property
    def listing(self) -> Listing:
        """What the folders hold now; read once."""
        return list_items(self.groups, self.lists, self.label.split)


def find_sets(root: str | Path, *, dataset: str | None = None) -> tuple[list[PairSet], tuple[Trouble, ...]]:
    """The sets under a folder, and the folders that are none but should be.

    `dataset` names those whose folders do not say what they are, and leaves out those that say something else. Raises
    as `recognise` does, and `ValueError` where nothing is left.
    """
    found = recognise(root)
    wanted = (named_dataset(dataset) or dataset) if dataset else None
    ordered = sorted(found.groups, key=_belonging)
    sets = [one for _, alike in groupby(ordered, key=_belonging) for one in _sets_of(tuple(alike), wanted)]
    named = [one for one in sets if one.groups[0].dataset == wanted]
    chosen = sets if wanted is None else named or [one for one in sets if one.label.dataset == wanted]
    if not chosen:
        there = ", ".join(sorted({str(one.label) for one in sets}))
        raise ValueError(f"no {wanted} under {root}, which holds {there}; name another folder or data set")
    names = Counter(str(one.label) for one in chosen)
    return [
        replace(one, where=f"{one.label} in {one.label.folder}" if names[str(one.label)] > 1 else str(one.label))
        for one in chosen
    ], found.trouble


def _belonging(group: Group) -> tuple[str, ...]:
    """Equal for groups that are parts of one set, also where one scene lacks a variant that the others have."""
    home = group.base.parent if group.scene else group.base
    words = (group.dataset, group.split, group.variant, group.sharp.name.lower(), group.storage, group.crops)
    return (*map(str, words), str(home))


def _sets_of(groups: tuple[Group, ...], wanted: str | None) -> list[PairSet]:
    first = groups[0]
    home = first.base.parent if first.scene else first.base
    dataset = first.dataset or wanted
    layout = f"{first.layout} per scene" if first.scene else first.layout
    label = Label(dataset, first.split, first.variant, None, first.crops, first.storage, layout, str(home))
    lists = _published_lists(home, dataset) if first.scene and first.split is None else {}
    return [PairSet(replace(label, split=split), groups, lists) for split in lists] or [PairSet(label, groups)]


def _published_lists(home: Path, dataset: str | None) -> dict[str, frozenset[str]]:
    """Split -> SCENE/NUMBER as in the list files of RealBlur, which lie in the folder of the scenes or above it."""
    lists: dict[str, frozenset[str]] = {}
    for folder in (home.parent, home):
        for path in sorted(folder.glob("*.txt")):
            of = re.fullmatch(r"(real[-_ ]?blur[-_ ]?[jr]).*?(train|test).*\.txt", path.name, re.IGNORECASE)
            if of and named_dataset(of[1]) == dataset:
                words = path.read_text(encoding="utf-8", errors="replace").split()
                places = [PurePosixPath(word) for word in words]
                lists[of[2].lower()] = frozenset(
                    f"{place.parts[-3]}/{bare_name(place.stem)}"
                    for place in places
                    if len(place.parts) >= 3 and place.parts[-2].lower() == "blur"
                )
    return lists
