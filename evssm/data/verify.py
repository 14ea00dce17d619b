"""Whether the data sets under a folder are what was published: every known defect is looked for and named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from evssm.data.brightness import Measured, check_one, check_two, kind_of_blur, measure
from evssm.data.findings import ERROR, WARNING, Finding, many, some
from evssm.data.image_checks import Inspected, check_images, inspect
from evssm.data.name_checks import check_count, check_names, published_count
from evssm.data.overlap_checks import check_overlap
from evssm.data.published import PUBLISHED, Published, named_dataset
from evssm.data.sets import Label, PairSet, find_sets

SAMPLE = 16
"""Pairs of each set that are decoded, evenly spread, where not all are."""


@dataclass(frozen=True)
class Checked:
    """One line of the table.

    `where` is what findings call the set; `paired` how names were matched; `published` is `None` where no number is
    known; `decoded` of `pairs` were decoded; `kind` is which blur of GoPro it is by brightness.
    """

    label: Label
    where: str
    paired: str
    pairs: int
    published: int | None
    decoded: int
    size: str
    bits: str
    kind: str


@dataclass(frozen=True)
class Report:
    """What `verify` found under `root`."""

    root: str
    sets: tuple[Checked, ...]
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == ERROR]

    @property
    def warnings(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == WARNING]

    def summary(self) -> str:
        """One line: how much was checked, and how it ended."""
        pairs = sum(line.pairs for line in self.sets)
        decoded = sum(line.decoded for line in self.sets)
        end = f"{many(self.errors, 'error')}, {many(self.warnings, 'warning')}" if self.findings else "nothing wrong"
        unknown = [line.where for line in self.sets if line.published is None]
        said = f"; no published number to compare with for {some(unknown)}" if unknown else ""
        return f"{many(self.sets, 'set')}, {pairs} pairs, {decoded} of them decoded: {end}{said}"


def verify(
    root: str | Path,
    *,
    dataset: str | None = None,
    everything: bool = False,
    sample: int = SAMPLE,
    published: Mapping[str, Published] = PUBLISHED,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Checks every set of pairs under `root` against what was published.

    The header, the end and the size of every image are read; of each set `sample` pairs, evenly spread, are decoded,
    or all of them with `everything`. Defects inside images that are not decoded, and a changed pixel, are not seen.
    `dataset`, one of `PUBLISHED`, says what unnamed folders are; `progress(done, total)` counts pairs.

    Raises `FileNotFoundError` or `ValueError`, in one line, where there is no folder, nothing known in it, or two
    ways to understand it.
    """
    if sample < 1:
        raise ValueError(f"sample is the number of pairs to decode, at least 1; not {sample}")
    if dataset is not None and named_dataset(dataset) is None:
        raise ValueError(f"no published data set is called {dataset!r}; known are {', '.join(PUBLISHED)}")
    sets, trouble = find_sets(root, dataset=dataset)
    chosen = [_spread(one, None if everything else sample) for one in sets]
    total, done = sum(len(one.listing.items) for one in sets) + sum(map(len, chosen)), 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    findings = [Finding(ERROR, str(root), str(one)) for one in trouble]
    seen, measured, lines = [], [], []
    for one, places in zip(sets, chosen, strict=True):
        facts = published.get(one.label.dataset or "")
        inspected = inspect(one, tick)
        values, failed = _measured(one, places, inspected, tick)
        findings += [*check_names(one), *check_count(one, facts), *check_images(one, inspected, facts)]
        findings += [Finding(ERROR, one.where, reason) for reason in failed]
        findings += check_one(one, values, {name for names in inspected.same.values() for name in names})
        lines.append(_line(one, inspected, values, facts))
        seen.append(inspected)
        measured.append(values)
    for i, j in combinations(range(len(sets)), 2):
        findings += check_overlap(sets[i], sets[j], seen[i], seen[j])
        findings += check_two(sets[i], sets[j], measured[i], measured[j])
    once = dict.fromkeys(findings)  # folders that two sets share are found faulty twice
    return Report(str(root), tuple(lines), tuple(sorted(once, key=lambda finding: finding.severity)))


def _spread(one: PairSet, sample: int | None) -> range | list[int]:
    n = len(one.listing.items)
    return range(n) if sample is None or n <= sample else [(2 * k + 1) * n // (2 * sample) for k in range(sample)]


def _measured(
    one: PairSet, places: range | list[int], seen: Inspected, tick: Callable[[], None]
) -> tuple[dict[str, Measured], list[str]]:
    """The decoded pairs by name, and why others could not be."""
    found, failed = {}, []
    for place in places:
        tick()
        item = one.listing.items[place]
        heads = seen.headers.get(item.name)
        if heads is None or len({(h.h, h.w) for h in heads.values()}) > 1:
            continue  # said already
        try:
            read = {role: picture.read() for role, picture in item.pictures.items()}
            blurred = next(read[role] for role in ("single", "left", "right") if role in read)
            found[item.name] = measure(blurred, read["sharp"])
        except (ValueError, OSError) as error:
            failed.append(str(error))
    return found, failed


def _line(one: PairSet, seen: Inspected, measured: Mapping[str, Measured], facts: Published | None) -> Checked:
    heads = [head for roles in seen.headers.values() for head in roles.values()]
    sizes = Counter(f"{head.h} x {head.w}" for head in heads)
    size = next(iter(sizes), "none") if len(sizes) < 2 else f"{len(sizes)} sizes"
    bits = " and ".join(map(str, sorted({head.bits for head in heads}))) or "none"
    kind = kind_of_blur(measured)[0] or "undecided" if one.label.dataset == "GoPro" else ""
    return Checked(
        label=one.label,
        where=one.where,
        paired=" and ".join(sorted(one.listing.how)) or "nothing",
        pairs=len(one.listing.items),
        published=published_count(one, facts),
        decoded=len(measured),
        size=size,
        bits=bits,
        kind=kind,
    )
