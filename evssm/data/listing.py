"""The pairs in the folders of a set, and what stands in the way of reading them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from evssm.data.contents import NOT, Contents, bare_name, contents, partners
from evssm.data.pictures import Picture
from evssm.data.recognise import Group


@dataclass(frozen=True)
class Item:
    """The images of one pair by role: `sharp` and those of `single`, `left`, `right` that exist."""

    name: str
    pictures: Mapping[str, Picture]


@dataclass
class Listing:
    """Items in order of their names, and what stands in the way of reading them.

    `unpaired`: role -> names without a partner; `how`: the ways in which names were matched; `missing`: names on the
    published list without an item; `unlisted`: names on no list.
    """

    items: list[Item] = field(default_factory=list)
    unpaired: dict[str, list[str]] = field(default_factory=dict)
    how: set[str] = field(default_factory=set)
    held: dict[Path, Contents] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)


def list_items(groups: Iterable[Group], lists: Mapping[str, frozenset[str]], split: str | None) -> Listing:
    """What the folders of one set hold now; where `lists` give the names of each split, those of `split` alone."""
    found = Listing()
    for group in groups:
        _list_group(group, found)
    if lists:
        _keep_listed(found, lists, str(split))
    found.items.sort(key=lambda item: item.name)
    return found


def _list_group(group: Group, found: Listing) -> None:
    """Adds the items of one group, and what is wrong with it."""
    prefix = f"{group.scene}/" if group.scene else ""
    folders = {role: getattr(group, role) for role in ("single", "left", "right", "sharp") if getattr(group, role)}
    held: dict[str, Mapping[str, Picture]] = {}
    for role, folder in folders.items():
        try:
            found.held[folder] = contents(folder, group.storage)
            held[role] = found.held[folder].pictures
        except (ValueError, OSError) as error:
            found.unreadable.append(_reason(error))
    if held.keys() != folders.keys():
        return
    lead = next(iter(held))
    matched = {}
    for role in list(held)[1:]:
        how, matched[role] = partners(list(held[lead]), list(held[role]), by_order=group.dataset == "DPDD")
        if how != NOT:
            found.how.add(how)
        alone = [prefix + name for name in held[role] if name not in set(matched[role].values())]
        if not (group.shared and role == "sharp"):
            found.unpaired.setdefault(role, []).extend(alone)
        for name in held[lead]:
            if name not in matched[role] and prefix + name not in found.unpaired.setdefault(lead, []):
                found.unpaired[lead].append(prefix + name)
    for name in held[lead]:
        if all(name in of_role for of_role in matched.values()):
            pictures = {lead: held[lead][name]} | {role: held[role][m[name]] for role, m in matched.items()}
            found.items.append(Item(prefix + name, pictures))


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename} cannot be read: {os.strerror(error.errno or 0)}"
    return str(error)


def _key(name: str) -> str:
    scene, _, number = name.rpartition("/")
    return f"{scene}/{bare_name(number)}"


def _keep_listed(found: Listing, lists: Mapping[str, frozenset[str]], split: str) -> None:
    """Leaves the items of one split, as the published list has it; what is on no list counts with the first split."""
    everywhere = frozenset().union(*lists.values())
    mine = lists[split]
    found.missing = sorted(mine - {_key(item.name) for item in found.items})
    first = split == next(iter(lists))
    if first:
        found.unlisted = [item.name for item in found.items if _key(item.name) not in everywhere]
    found.items = [item for item in found.items if _key(item.name) in mine]
    for role, names in found.unpaired.items():
        found.unpaired[role] = [n for n in names if _key(n) in mine or (first and _key(n) not in everywhere)]
