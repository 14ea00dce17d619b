"""What the images themselves tell: whole or not, as deep and large as published, and no two the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import NamedTuple

from evssm.data.findings import ERROR, WARNING, Finding, many, some
from evssm.data.lmdb import LmdbPicture
from evssm.data.pictures import Header, Picture, header
from evssm.data.published import Published
from evssm.data.sets import PairSet
from evssm.images import SMALLEST

_LOSSY = ("JPEG", "MPO", "WEBP")


class Inspected(NamedTuple):
    """Headers of the items whose images can be read, why others cannot, and whose images are one file."""

    headers: dict[str, dict[str, Header]]
    unreadable: list[str]
    same: dict[tuple[str, str], list[str]]


def inspect(one: PairSet, tick: Callable[[], None]) -> Inspected:
    """The headers of every image; one that does not end as it should is decoded, for only that can tell."""
    found = Inspected({}, [], {})
    for item in one.listing.items:
        heads = {}
        for role, picture in item.pictures.items():
            try:
                heads[role] = _header_of_a_whole(picture)
            except (ValueError, OSError) as error:
                found.unreadable.append(str(error))
        if heads.keys() == item.pictures.keys():
            found.headers[item.name] = heads
            for a, b in combinations(heads, 2):
                if heads[a].size == heads[b].size and item.pictures[a].content() == item.pictures[b].content():
                    found.same.setdefault((a, b), []).append(item.name)
        tick()
    return found


def _header_of_a_whole(picture: Picture) -> Header:
    claimed = header(picture)
    if isinstance(picture, LmdbPicture):
        picture.demand_size(claimed.h, claimed.w)
    if min(claimed.h, claimed.w) < SMALLEST:
        raise ValueError(f"{picture} has {claimed.h} x {claimed.w} pixels; {SMALLEST} a side is the least that is read")
    if not claimed.sure:
        picture.read()
    return claimed


def check_images(one: PairSet, seen: Inspected, facts: Published | None) -> Iterator[Finding]:
    """Findings about unreadable images, bit depth, sizes, and images of a pair that are one and the same."""
    where = one.where
    if seen.unreadable:
        yield Finding(ERROR, where, f"{many(seen.unreadable, 'image')} unreadable: {some(seen.unreadable, 2)}")
    lossy = [name for name, heads in seen.headers.items() if any(h.kind in _LOSSY for h in heads.values())]
    if lossy and facts:
        yield Finding(ERROR, where, f"{many(lossy, 'pair')} with JPEG or WebP images, published are PNG: {some(lossy)}")
    yield from _depths(where, seen, facts)
    yield from _sizes(one, seen, facts)
    for (a, b), names in seen.same.items():
        first = "blurred" if a == "single" and b == "sharp" else a
        yield Finding(ERROR, where, f"{first} and {b} are the same file in {many(names, 'pair')}: {some(names)}")


def _depths(where: str, seen: Inspected, facts: Published | None) -> Iterator[Finding]:
    deep = {name: max(h.bits for h in heads.values()) for name, heads in seen.headers.items()}
    shallow = {name: min(h.bits for h in heads.values()) for name, heads in seen.headers.items()}
    if facts and facts.bits == 16:
        wrong = [name for name, bits in shallow.items() if bits != 16]
        if wrong:
            yield Finding(
                ERROR,
                where,
                f"{many(wrong, 'pair')} not of 16 bits, as published, but {shallow[wrong[0]]}: {some(wrong)}",
            )
    elif facts:
        wrong = [name for name, bits in deep.items() if bits > 8]
        if wrong:
            yield Finding(
                ERROR, where, f"{many(wrong, 'pair')} of {deep[wrong[0]]} bits, where published are 8: {some(wrong)}"
            )
    kinds = Counter(max(8, h.bits) for heads in seen.headers.values() for h in heads.values())
    if len(kinds) > 1:
        mixed = " and ".join(f"{n} of {bits}" for bits, n in sorted(kinds.items()))
        yield Finding(WARNING, where, f"mixed bit depths: images {mixed} bits")


def _sizes(one: PairSet, seen: Inspected, facts: Published | None) -> Iterator[Finding]:
    where = one.where
    unequal = []
    for item in one.listing.items:
        heads = seen.headers.get(item.name, {})
        if len({(h.h, h.w) for h in heads.values()}) > 1:
            sizes = " and ".join(f"{role} {h.h} x {h.w}" for role, h in heads.items())
            unequal.append(f"{item.name} ({sizes})")
    if unequal:
        yield Finding(ERROR, where, f"{many(unequal, 'pair')} with images that differ in size: {some(unequal)}")
    if facts and facts.size and not one.label.crops:
        h, w = facts.size
        other = [name for name, heads in seen.headers.items() if any((x.h, x.w) != (h, w) for x in heads.values())]
        if other:
            first = seen.headers[other[0]]["sharp"]
            what = f"{many(other, 'pair')} not of {h} x {w}, as published, but {first.h} x {first.w}: {some(other)}"
            yield Finding(ERROR, where, what)
