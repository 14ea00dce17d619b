"""What names and numbers of files tell about a set: missing ones, strange ones, and as many as were published."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping

from evssm.data.findings import ERROR, WARNING, Finding, many, some
from evssm.data.published import Published
from evssm.data.sets import PairSet

_NOT_READ = {
    "broken": "links lead nowhere",
    "doubled": "names occur with two suffixes",
    "strange": "files are no images",
}


def check_names(one: PairSet) -> Iterator[Finding]:
    """Findings about unpaired, doubled, empty, strange and hard-to-handle names."""
    where, found = one.where, one.listing
    for reason in found.unreadable:
        yield Finding(ERROR, where, reason)
    for role, names in found.unpaired.items():
        if names:
            whose = "sharp" if role == "sharp" else "blurred" if role == "single" else role
            yield Finding(ERROR, where, f"{many(names, whose + ' image')} without a partner: {some(names)}")
    alike = _alike_but_for_form(found.unpaired)
    if alike:
        yield Finding(ERROR, where, f"names differ only by case or Unicode form between the folders: {some(alike)}")
    if found.missing:
        yield Finding(
            ERROR, where, f"{many(found.missing, 'image')} of the published list missing: {some(found.missing)}"
        )
    if found.unlisted:
        yield Finding(ERROR, where, f"{many(found.unlisted, 'image')} on no published list: {some(found.unlisted)}")
    twice = [name for name, times in Counter(item.name for item in found.items).items() if times > 1]
    if twice:
        yield Finding(ERROR, where, f"{many(twice, 'name')} in two folders of the set: {some(twice)}")
    if one.roles & {"left", "right"} and not one.roles >= {"left", "right"}:
        (there,) = one.roles & {"left", "right"}
        yield Finding(ERROR, where, f"only the {there} one of the two dual-pixel views is there")
    yield from _folder_findings(one)
    odd = [
        item.name for item in found.items if not item.name.isascii() or any(letter.isspace() for letter in item.name)
    ]
    if odd:
        yield Finding(
            WARNING, where, f"{many(odd, 'name')} with spaces or non-ASCII letters, which list files split: {some(odd)}"
        )


def _folder_findings(one: PairSet) -> Iterator[Finding]:
    where = one.where
    for folder, held in one.listing.held.items():
        if not held.pictures:
            yield Finding(ERROR, where, f"{folder} holds no image")
        for kind, meaning in _NOT_READ.items():
            names = getattr(held, kind)
            if names:
                severity = WARNING if kind == "strange" else ERROR
                yield Finding(severity, where, f"{len(names)} {meaning} in {folder}: {some(names)}")
        if held.folders:
            yield Finding(WARNING, where, f"{folder} holds sub-folders, which are not read: {some(held.folders)}")
        if held.capitals:
            what = f"{many(held.capitals, 'file')} with a suffix in capitals, which *.png misses, in {folder}"
            yield Finding(WARNING, where, f"{what}: {some(held.capitals)}")


def _alike_but_for_form(unpaired: Mapping[str, list[str]]) -> list[str]:
    """Names without a partner that would have one if case and Unicode normalisation did not count."""
    forms = Counter(form for names in unpaired.values() for form in {_plain(name) for name in names})
    return [name for name in unpaired.get("sharp", []) if forms[_plain(name)] > 1]


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def published_count(one: PairSet, facts: Published | None) -> int | None:
    """How many pairs the published set has, where that is known."""
    if facts is None:
        return None
    counts = facts.crops if one.label.crops else facts.counts
    return counts.get(one.label.split) if one.label.split else None


def check_count(one: PairSet, facts: Published | None) -> Iterator[Finding]:
    """Findings about more or fewer pairs than were published."""
    if facts is None:
        return
    where, n, split, expected = one.where, len(one.listing.items), one.label.split, published_count(one, facts)
    counted = many(one.listing.items, "pair")
    if one.label.crops:
        if expected is not None and n != expected:
            what = f"{n} crops, where 512 x 512 every 256 pixels give {expected}; other crops than the papers train on"
            yield Finding(WARNING, where, what)
    elif expected is not None:
        if n != expected:
            known = f", {facts.known[n]}" if n in facts.known else ""
            state = f"incomplete, {expected - n} missing{known}" if n < expected else f"{n - expected} too many"
            yield Finding(ERROR, where, f"{counted}, published are {expected}: {state}")
    elif split:
        yield Finding(ERROR, where, f"there is no published split {split}, only {some(facts.counts)}")
    else:
        totals = {count: f"of {name}" for name, count in facts.counts.items()}
        totals[sum(facts.counts.values())] = "of all splits together"
        published = ", ".join(f"{count} {name}" for name, count in facts.counts.items())
        if n not in totals:
            known = f", {facts.known[n]}" if n in facts.known else ""
            yield Finding(ERROR, where, f"{counted} in no named split; published are {published}{known}")
        else:
            yield Finding(WARNING, where, f"no folder or list names the split; {n} pairs is the number {totals[n]}")
