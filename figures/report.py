"""The report, one page that needs no network: what stands in this folder and in FINDINGS.md, arranged for reading.

It is a function of files alone: the cards and tables that the figures leave, the findings, the notebooks' titles.
"""

import base64
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from blocks import Block, Table, Text, blocks_of, sections_of
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from registry import FIGURES, Figure

from evssm.provenance import written_whole

HERE = Path(__file__).parent
FINDINGS = HERE.parent / "analysis" / "FINDINGS.md"
NOTEBOOKS = HERE.parent / "notebooks"


ENLARGED = 4 / 3 * 1.35
"""CSS pixels per point of a picture: a point is 4/3 of them, and letters are read from farther than in print."""

OF_WEIGHTS = ("file", "model", "weights", "seed", "steps", "commit", "sha256", "tensors_sha256", "data", "hardware")
"""What the page says of each network; what a card does not know, as of untrained weights, stays empty."""


@dataclass(frozen=True)
class Shown:
    """A figure as the page shows it: its entry, its card, its pictures with their data, its text, its number."""

    figure: Figure
    card: Mapping[str, Any]
    pictures: Sequence[Mapping[str, Any]]
    blocks: Sequence[Block]
    number: int

    @property
    def untrained(self) -> bool:
        return any(one["weights"] == "untrained" for one in self.card["weights"])


def write_report(
    folder: Path = HERE, findings: Path = FINDINGS, notebooks: Path = NOTEBOOKS, figures: Sequence[Figure] = FIGURES
) -> tuple[Path, bool]:
    """The page, `folder/report.html`, and whether it changed: one that is up to date is not written again."""
    page, path = report(folder, findings, notebooks, figures).encode(), folder / "report.html"
    if path.is_file() and path.read_bytes() == page:
        return path, False
    with written_whole(path) as part:
        part.write_bytes(page)
    return path, True


def report(folder: Path, findings: Path, notebooks: Path, figures: Sequence[Figure]) -> str:
    """The whole page as HTML; figures that have no card yet are left out."""
    made = [figure for figure in figures if (folder / f"{figure.name}.json").is_file()]
    shown = _shown(folder, made)
    before, sections = sections_of(blocks_of(findings.read_text("utf-8")))
    first, rest, repeated = _apart(sections, shown)
    weights = [
        {**dict.fromkeys(OF_WEIGHTS), **one}
        for one in _without_repeats(one for each in shown for one in each.card["weights"])
    ]
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html.j2").render(
        drawn=[one for one in shown if one.pictures],
        published=[one for one in shown if not one.pictures],
        summary=[block for block in before if not (isinstance(block, Text) and block.kind == "heading")],
        first=first,
        rest=rest,
        repeated=repeated,
        weights=weights,
        ways=Counter(f"{one['data']}; {one['hardware']}" for one in weights if one["steps"]),
        images=_without_repeats(one for each in shown for one in each.card["images"]),
        versions=_versions(shown),
        notebooks=_notebooks(notebooks, folder),
    )


def _shown(folder: Path, figures: Iterable[Figure]) -> list[Shown]:
    shown: list[Shown] = []
    for figure in figures:
        card = json.loads((folder / f"{figure.name}.json").read_text("utf-8"))
        blocks = [b for b in blocks_of((folder / card["table"]).read_text("utf-8")) if getattr(b, "level", 0) != 1]
        pictures = [
            {**picture, **{width: _embedded(folder / picture[width]) for width in ("wide", "narrow")}}
            for picture in card["pictures"]
        ]
        number = 1 + sum(bool(one.pictures) for one in shown)
        shown.append(Shown(figure, card, pictures, blocks, number if pictures else 0))
    return shown


def _apart(
    sections: Mapping[str, Sequence[Block]], shown: Sequence[Shown]
) -> tuple[dict[str, Sequence[Block]], dict[str, Sequence[Block]], list[Shown]]:
    """The findings that come before the figures, those that come after, and the figures that tell the others.

    A section whose table stands beside a figure already is not repeated; whatever precedes the first such section in
    the findings also precedes the figures.
    """
    tables = {block: one for one in shown for block in one.blocks if isinstance(block, Table)}
    first: dict[str, Sequence[Block]] = {}
    rest: dict[str, Sequence[Block]] = {}
    repeated: list[Shown] = []
    for title, blocks in sections.items():
        told = [tables[block] for block in blocks if isinstance(block, Table) and block in tables]
        if told:
            repeated += told
        else:
            (rest if repeated else first)[title] = blocks
    return first, rest, sorted(repeated, key=lambda one: one.number)


def _embedded(path: Path) -> dict[str, Any]:
    """A picture as a page holds it: its bytes in the address, and its size where there is room, in CSS pixels."""
    data = path.read_bytes()
    _, _, width, height = map(float, ElementTree.fromstring(data).attrib["viewBox"].split())
    return {
        "data": f"data:image/svg+xml;base64,{base64.b64encode(data).decode()}",
        "width": round(width * ENLARGED),
        "height": round(height * ENLARGED),
    }


def _without_repeats(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return list({json.dumps(one, sort_keys=True): one for one in records}.values())


def _versions(shown: Iterable[Shown]) -> dict[str, str]:
    """Package -> version, or versions where the figures were made with several."""
    found: dict[str, set[str]] = {}
    for one in shown:
        for package, version in one.card["versions"].items():
            found.setdefault(package, set()).add(version)
    return {package: ", ".join(sorted(versions)) for package, versions in sorted(found.items())}


def _notebooks(notebooks: Path, folder: Path) -> list[dict[str, str]]:
    """Name, title and address, relative to the page, of each notebook."""
    found = []
    for path in sorted(notebooks.glob("*.ipynb")):
        first = "".join(json.loads(path.read_text("utf-8"))["cells"][0]["source"])
        title = first.splitlines()[0].lstrip("# ")
        found.append({"name": path.stem, "title": title, "href": Path(os.path.relpath(path, folder)).as_posix()})
    return found
