"""The report as a reader's browser takes it: parsed, and held against the files it is made of."""

import base64
import json
import os
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from registry import FIGURES, Figure
from report import FINDINGS, NOTEBOOKS, report, write_report

FOLDER = Path(__file__).parent.parent.parent / "figures"
HOSTILE = "</td><script>alert(1)</script><img src=x onerror=alert(2)> \"'&amp; [x](javascript:alert(3))"
VOID = {"meta", "link", "img", "source", "br", "hr"}


class Page(HTMLParser):
    """Tags with their attributes in order, and the text of each table cell, caption and element with an id."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.open, self.tables, self.texts = [], [], [], []
        self.feed(text)
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names))
        self.tags.append((tag, dict(attributes)))
        if tag in VOID:
            return
        self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, "elements are nested"

    def handle_data(self, data):
        self.texts.append(data)
        if "table" in self.open and ("td" in self.open or "th" in self.open):
            self.tables[-1][-1][-1] += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def svg(width, height):
    numbers = np.random.default_rng().integers(0, 99, 6)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}pt" height="{height}pt" '
        f'viewBox="0 0 {width} {height}"><path d="M{" ".join(map(str, numbers))}"/></svg>'
    )


def table_of(rows):
    lines = ["| network | seeds | R90 [px] |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def random_table():
    rng = np.random.default_rng()
    cells = [[f"{value:.3g}" for value in rng.normal(size=5) * 10.0 ** rng.integers(-3, 4)] for _ in range(3)]
    return table_of([[f"net {i}", "2", f"{a} [{b}, {c}] / {d}, {e}"] for i, (a, b, c, d, e) in enumerate(cells)])


def card(name, **changes):
    entry = {"label": "", "alt": f"what {name} shows", "as": name}
    return {
        "caption": f"caption of {name}",
        "command": f"python figures/make.py {name}",
        "pictures": [{**entry, "wide": f"{name}.svg", "narrow": f"{name}_narrow.svg"}],
        "table": f"{name}.md",
        "weights": [
            {
                "file": "a.safetensors",
                "model": "a",
                "weights": "trained",
                "sha256": "5" * 64,
                "tensors_sha256": "6" * 64,
                "seed": 0,
                "steps": 800,
                "commit": "abc",
                "data": "photographs",
                "hardware": "a machine",
            }
        ],
        "images": [{"name": "one", "size": "8 x 9", "sha256": "7" * 64, "credit": "somebody", "licence": "CC0"}],
        "sources": "8" * 64,
        "versions": {"python": "3.11"},
        **changes,
    }


@pytest.fixture
def project(tmp_path):
    """A folder with two figures, one published table, findings that repeat a table, and a notebook."""
    for name in ("figures", "notebooks"):
        (tmp_path / name).mkdir()
    tables = {name: random_table() for name in ("first", "second", "third")}
    for name, table in tables.items():
        (tmp_path / "figures" / f"{name}.md").write_text(f"# A title\n\n{table}\n\nA note.\n\n## Said\n\n- an item\n")
        for suffix in ("", "_narrow"):
            (tmp_path / "figures" / f"{name}{suffix}.svg").write_text(svg(300, 200))
    for name in tables:
        changes = {"pictures": []} if name == "third" else {}
        (tmp_path / "figures" / f"{name}.json").write_text(json.dumps(card(name, **changes)))
    own = table_of([["other", "1", "5"]])
    verdict = "a reaches farther than b: contradicted (R90 in px, difference -3.03, 95 % interval -5.75 to -0.181)"
    (tmp_path / "FINDINGS.md").write_text(
        f"# Findings\n\nAll about them.\n\n## First\n\n- {verdict}\n\n{tables['first']}\n\n## Own\n\n{own}\n"
    )
    cell = {"cell_type": "markdown", "source": ["# What is it?\n", "Something."]}
    (tmp_path / "notebooks" / "00_start.ipynb").write_text(json.dumps({"cells": [cell]}))
    return tmp_path


def figures(*names):
    return [Figure(name, f"What is {name}?", "supplement, Fig. 0", "00_start") for name in names]


def page_of(project, *names):
    return report(
        project / "figures",
        project / "FINDINGS.md",
        project / "notebooks",
        figures(*(names or ("first", "second", "third"))),
    )


def cells(markdown):
    """The cells of every table of a text, a line at a time, without empty columns: another reader than the report's."""
    tables, inside = [], False
    for line in markdown.splitlines():
        if line.startswith("|") and not inside:
            tables.append([])
        inside = line.startswith("|")
        if inside and not line.startswith("|---"):
            tables[-1].append([cell.strip() for cell in line.strip("|").split(" | ")])
    kept = [[any(row[i] != "-" for row in rows[1:]) for i in range(len(rows[0]))] for rows in tables]
    return [
        [cell for cell, on in zip(row, keep, strict=True) if on]
        for rows, keep in zip(tables, kept, strict=True)
        for row in rows
    ]


def rows_of(page):
    return [[" ".join(cell.split()) for cell in row] for table in page.tables for row in table]


def check_that_nothing_is_fetched(page):
    for tag, attributes in page.tags:
        assert tag not in ("script", "iframe", "object", "embed", "base")
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name in ("href", "src", "srcset") or "//" not in (value or "")
        for name in ("src", "srcset"):
            assert attributes.get(name, "data:").startswith("data:")
        assert tag != "link" or attributes["href"] == "data:,"
    style = "".join(page.texts)
    assert "@import" not in style
    assert "url(" not in style


def check_the_pictures(page):
    assert page.all("img")
    for image in page.all("img"):
        assert len(image["alt"]) > 10
        assert int(image["width"]) > int(image["height"]) * 0.2 > 0
    for picture in [*page.all("img"), *page.all("source")]:
        address = picture.get("src") or picture["srcset"]
        drawing = base64.b64decode(address.removeprefix("data:image/svg+xml;base64,"), validate=True).decode()
        references = re.findall(r'(?:href|src)="([^"]*)"|url\(([^)]*)\)', drawing)
        assert all((a or b).strip("'\"").startswith(("#", "data:")) for a, b in references)


def check_that_links_lead_somewhere(page, folder):
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names))
    for link in page.all("a"):
        address = link["href"]
        assert address[1:] in names if address.startswith("#") else (folder / address).is_file(), address


def check_for_keyboards_and_readers(page):
    assert page.all("html") == [{"lang": "en"}]
    assert page.all("main")
    assert page.all("a")[0] == {"class": "skip", "href": "#main"}
    for attributes in page.all("div"):
        if attributes.get("class") == "scroll":
            assert attributes["tabindex"] == "0"
            assert attributes["role"] == "region"
            assert attributes["aria-label"]
    assert len(page.tables) == sum(attributes.get("class") == "scroll" for attributes in page.all("div"))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_a_page_holds_every_figure_and_fetches_nothing(project):
    page = Page(page_of(project))
    check_that_nothing_is_fetched(page)
    check_the_pictures(page)
    check_for_keyboards_and_readers(page)
    drawings = [base64.b64decode(image["src"].partition(",")[2]).decode() for image in page.all("img")]
    assert drawings == [(project / "figures" / f"{name}.svg").read_text() for name in ("first", "second")]
    thin = [base64.b64decode(one["srcset"].partition(",")[2]).decode() for one in page.all("source")]
    assert thin == [(project / "figures" / f"{name}_narrow.svg").read_text() for name in ("first", "second")]
    assert [image["alt"] for image in page.all("img")] == ["what first shows", "what second shows"]
    for words in ("Figure 1. Caption of first", "Figure 2. Caption of second", "What is third?", "What is it?"):
        assert words in page.text


def test_numbers_are_those_of_the_files(project):
    rows = rows_of(Page(page_of(project)))
    for name in ("first", "second", "third"):
        wanted = cells((project / "figures" / f"{name}.md").read_text())
        assert [row for row in rows if row in wanted]
        for row in wanted:
            assert row in rows
    assert ["other", "1", "5"] in rows


def test_a_table_that_stands_on_the_page_is_linked_and_not_repeated(project):
    page = Page(page_of(project))
    (wanted, *_) = cells((project / "figures" / "first.md").read_text())[1:]
    assert rows_of(page).count(wanted) == 1
    assert "Every verdict with its numbers: Figure 1" in page.text
    changed = project / "figures" / "first.md"
    changed.write_text(changed.read_text().replace("| net 0 |", "| net 9 |"))
    page = Page(page_of(project))  # the findings are older than the figure now: both are shown
    assert wanted in rows_of(page)
    assert "Every verdict" not in page.text
    assert "a reaches farther than b" in page.text
    assert "[ -5.75, -0.181 ]" in page.text.replace("[-5.75, -0.181]", "[ -5.75, -0.181 ]")


def test_figures_without_a_card_are_left_out_and_those_of_random_weights_say_so(project):
    assert "What is absent?" not in Page(page_of(project, "first", "absent")).text
    assert "untrained" not in Page(page_of(project, "first")).text
    made = json.loads((project / "figures" / "first.json").read_text())
    made["weights"].append({"file": None, "model": "b", "weights": "untrained", "tensors_sha256": "4" * 64})
    (project / "figures" / "first.json").write_text(json.dumps(made))
    assert "untrained weights" in Page(page_of(project, "first")).text
    assert ["b", "-", "untrained", "-", "4" * 16] in rows_of(Page(page_of(project, "first")))


def test_columns_of_which_nothing_is_known_are_left_out(project):
    table = "| method | published | cost |\n|---|---|---|\n| a | 1 | - |\n| b | - | - |"
    (project / "figures" / "first.md").write_text(f"{table}\n")
    rows = rows_of(Page(page_of(project, "first")))
    assert ["method", "published"] in rows
    assert ["b", "-"] in rows
    assert cells(table) == [["method", "published"], ["a", "1"], ["b", "-"]]


def test_text_is_text_whatever_it_looks_like(project):
    quoted = HOSTILE.replace("|", "")
    made = card("first", caption=HOSTILE, command=HOSTILE)
    made["pictures"][0]["alt"] = made["pictures"][0]["label"] = HOSTILE
    made["images"][0].update(credit=HOSTILE, name=HOSTILE)
    made["weights"][0].update(file=HOSTILE, data=HOSTILE, hardware=HOSTILE)
    (project / "figures" / "first.json").write_text(json.dumps(made))
    (project / "figures" / "first.md").write_text(
        f"{table_of([[quoted, '1', '5 [' + quoted + ']']])}\n\n{quoted}\n\n- {quoted}\n\n## {quoted}\n\n    {quoted}\n"
    )
    cell = {"cell_type": "markdown", "source": [f"# {HOSTILE}"]}
    (project / "notebooks" / "00_start.ipynb").write_text(json.dumps({"cells": [cell]}))
    page = Page(page_of(project))
    check_that_nothing_is_fetched(page)
    check_the_pictures(page)
    assert not any("javascript" in link["href"] for link in page.all("a"))
    assert HOSTILE in page.all("img")[0]["alt"]
    assert page.text.count("<script>alert(1)</script>") >= 10


def test_the_page_is_written_only_where_something_changed(project):
    where = (project / "figures", project / "FINDINGS.md", project / "notebooks", figures("first", "second"))
    path, changed = write_report(*where)
    assert changed
    assert path.read_text() == page_of(project, "first", "second")
    os.utime(path, ns=(1, 1))
    assert write_report(*where) == (path, False)
    assert path.stat().st_mtime_ns == 1
    (project / "figures" / "second.md").write_text("Another note.\n")
    assert write_report(*where) == (path, True)
    assert {entry.suffix for entry in path.parent.iterdir()} == {".html", ".md", ".svg", ".json"}


def test_the_projects_own_page_is_that_of_its_files():
    text = (FOLDER / "report.html").read_text("utf-8")
    assert text == report(FOLDER, FINDINGS, NOTEBOOKS, FIGURES), "run: python figures/make.py report"
    page = Page(text)
    check_that_nothing_is_fetched(page)
    check_the_pictures(page)
    check_that_links_lead_somewhere(page, FOLDER)
    check_for_keyboards_and_readers(page)
    rows = rows_of(page)
    for figure in FIGURES:
        assert figure.title in page.text
        made = json.loads((FOLDER / f"{figure.name}.json").read_text())
        assert made["caption"][1:] in page.text
        for row in cells((FOLDER / made["table"]).read_text()):
            assert row in rows
    for row in cells(FINDINGS.read_text()):
        assert row in rows


def luminance(colour):
    srgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def contrast(a, b):
    """WCAG 2's ratio."""
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_text_stands_out_from_its_ground(dark):
    style = (FOLDER / "report.css").read_text()
    before, _, after = style.partition("@media (prefers-color-scheme: dark)")
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", after if dark else before))
    pairs = [("ink", "paper"), ("soft", "paper"), ("link", "paper"), ("ink", "panel")]
    pairs += [(word, f"{word}-on") for word in ("shown", "open", "against")]
    for text, ground in pairs:
        assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    assert contrast("#777777", "#ffffff") < 4.5 < contrast("#767676", "#ffffff")  # the ratio's known border
