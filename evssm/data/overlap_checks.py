"""What two splits of a data set must not have in common."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from evssm.data.findings import ERROR, WARNING, Finding, many, some
from evssm.data.image_checks import Inspected
from evssm.data.pictures import Picture
from evssm.data.sets import PairSet


def check_overlap(one: PairSet, other: PairSet, seen: Inspected, seen_other: Inspected) -> Iterator[Finding]:
    """Findings about sharp images that two splits share (equal files, whatever their names) and equal names."""
    a, b = one.label, other.label
    kinds = {(x.dataset or Path(x.folder).parent, x.variant, x.crops, x.storage, x.layout) for x in (a, b)}
    if len(kinds) > 1 or a.split == b.split or None in (a.split, b.split):
        return
    mine, others = _sharp(one), _sharp(other)
    sizes = {head["sharp"].size for head in seen.headers.values()}
    sizes &= {head["sharp"].size for head in seen_other.headers.values()}
    twins: dict[bytes, str] = {}
    for name, head in seen_other.headers.items():
        if head["sharp"].size in sizes:
            twins[_digest(others[name])] = name
    shared = []
    for name, head in seen.headers.items():
        twin = twins.get(_digest(mine[name])) if head["sharp"].size in sizes else None
        if twin is not None:
            shared.append(name if name == twin else f"{name} = {twin}")
    where = f"{one.where} and {other.where}"
    if shared:
        yield Finding(ERROR, where, f"{many(shared, 'sharp image')} in both splits: {some(shared)}")
    same_names = sorted(mine.keys() & others.keys() - set(shared))
    if same_names:
        yield Finding(
            WARNING, where, f"{many(same_names, 'name')} in both splits, of different images: {some(same_names)}"
        )


def _sharp(one: PairSet) -> dict[str, Picture]:
    return {item.name: item.pictures["sharp"] for item in one.listing.items}


def _digest(picture: Picture) -> bytes:
    return sha256(picture.content()).digest()
