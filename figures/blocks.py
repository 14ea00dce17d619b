"""Tables and findings in Markdown, taken apart into blocks that a page lays out: nothing in them is HTML until then."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode
from markupsafe import Markup

_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")  # without HTML: tags in it are text

_CLAIM = re.compile(
    r"(?P<claim>.+): (?P<word>shown|not shown|contradicted) \((?P<statistic>.+), difference (?P<difference>\S+), "
    r"95 % interval (?P<low>\S+) to (?P<high>\S+)\)"
)
_NUMBER = re.compile(r"[+-]?\d")


@dataclass(frozen=True)
class Cell:
    """What a cell of a table holds: its value, and behind that an interval in brackets and each seed by itself."""

    value: Markup
    interval: str = ""
    seeds: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under a head; `numeric` says of each column whether it is one of numbers. Empty columns are left out."""

    head: tuple[Markup, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numeric: tuple[bool, ...]
    kind: str = "table"


@dataclass(frozen=True)
class Claim:
    """A verdict (`analysis.verdicts.Verdict`) as it was written, taken apart."""

    claim: str
    word: str
    statistic: str
    difference: str
    low: str
    high: str


@dataclass(frozen=True)
class Claims:
    items: tuple[Claim, ...]
    kind: str = "claims"


@dataclass(frozen=True)
class Items:
    items: tuple[Markup, ...]
    kind: str = "items"


@dataclass(frozen=True)
class Text:
    """A paragraph, a heading or lines of code; `level` is that of a heading."""

    kind: str
    text: Markup
    level: int = 0


Block = Table | Claims | Items | Text


def blocks_of(markdown: str) -> list[Block]:
    """The blocks of a text, in its order; `ValueError` for a kind of block that these pages do not have."""
    return [_block(node) for node in SyntaxTreeNode(_MARKDOWN.parse(markdown)).children]


def sections_of(blocks: Sequence[Block]) -> tuple[list[Block], dict[str, list[Block]]]:
    """What stands before the first heading of the second level, and what under each of those, by its words."""
    before: list[Block] = []
    sections: dict[str, list[Block]] = {}
    current = before
    for block in blocks:
        if isinstance(block, Text) and block.kind == "heading" and block.level == 2:
            current = sections.setdefault(str(block.text), [])
        else:
            current.append(block)
    return before, sections


def _block(node: SyntaxTreeNode) -> Block:
    if node.type == "heading":
        return Text("heading", _inline(node), int(node.tag[1:]))
    if node.type == "paragraph":
        return Text("paragraph", _inline(node))
    if node.type in ("code_block", "fence"):
        return Text("code", Markup.escape(node.content))
    if node.type in ("bullet_list", "ordered_list"):
        return _listed([item.children[0] for item in node.children])
    if node.type == "table":
        head, *body = [row.children for part in node.children for row in part.children]
        return _table([_inline(cell) for cell in head], [[_cell(cell) for cell in row] for row in body])
    raise ValueError(f"a page shows headings, paragraphs, lists, tables and code; this is a {node.type}")


def _listed(items: Sequence[SyntaxTreeNode]) -> Claims | Items:
    claims = [_CLAIM.fullmatch(item.children[0].content) for item in items]
    if all(claims):
        return Claims(tuple(Claim(**claim.groupdict()) for claim in claims if claim))
    return Items(tuple(_inline(item) for item in items))


def _table(head: list[Markup], rows: list[list[Cell]]) -> Table:
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(head)
    kept = [i for i, column in enumerate(columns) if not column or any(cell.value != "-" for cell in column)]
    numeric = [all(_NUMBER.match(cell.value) for cell in columns[i] if cell.value != "-") for i in kept]
    return Table(tuple(head[i] for i in kept), tuple(tuple(row[i] for i in kept) for row in rows), tuple(numeric))


def _cell(node: SyntaxTreeNode) -> Cell:
    """A number's interval and seeds stand apart from it, as "1.5 [1, 2] / 1.4, 1.6"."""
    text = node.children[0].content if node.children else ""
    found = re.fullmatch(r"(?P<value>[^\[\]]+?) (?P<interval>\[[^\]]*\])(?: (?P<seeds>/ .+))?", text)
    if found and _NUMBER.match(text):
        return Cell(Markup.escape(found["value"]), found["interval"], found["seeds"] or "")
    return Cell(_inline(node))


def _inline(node: SyntaxTreeNode) -> Markup:
    tokens = [token for child in node.children for token in child.to_tokens()]
    return Markup(_MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {}))
