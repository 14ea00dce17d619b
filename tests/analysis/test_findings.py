"""The page of findings says of each claim what its interval says, and counts them."""

import pytest

from analysis.findings import Section, findings_page
from analysis.tasks import Task
from analysis.trained_family import Reached
from analysis.verdicts import Verdict
from evssm.provenance import Provenance
from evssm.scores import Row, Scores

SHOWN = Verdict("a beats b", "PSNR in dB", "larger", 0.3, 0.1, 0.5)
OPEN = Verdict("b beats c", "PSNR in dB", "larger", 0.1, -0.1, 0.3)
AGAINST = Verdict("c beats d", "PSNR in dB", "larger", -0.3, -0.5, -0.1)


def member(**origin):
    row = Row("one", 30.0, 0.9, 29.0, 0.8, 1.0, 1.0, 0, 0.0, 1.0, 1.0, "", "")
    facts = {"model": "net", "weights": "trained", "sha256": "0" * 64, "steps": 7, "seed": 0} | origin
    return Reached(
        "net", Task("Motion", [], "data"), Scores({}, (row,)), None, Provenance(**facts), 400_000, 1e9, 800_000
    )


def part_under(page, title):
    return page.partition(title)[2].partition("\n## ")[0]


def test_what_is_at_odds_with_the_paper_stands_first_and_is_counted():
    sections = [
        Section("Turns", [SHOWN, OPEN, AGAINST, SHOWN], "supplement, Fig. 5", "| table |"),
        Section("Scans", [AGAINST]),
    ]
    page = findings_page([member()], sections, command="make it")
    assert "| Turns (supplement, Fig. 5) | 2 | 1 | 1 |" in page
    against, open_ = part_under(page, "## Where this is at odds").split("Neither shown nor contradicted:")
    assert str(AGAINST) in against
    assert str(OPEN) in open_
    assert str(SHOWN) not in against + open_
    assert page.count(str(AGAINST)) == 3, "the project's own expectation is not the paper's"
    assert "| Scans" not in page
    assert all(str(claim) in part_under(page, "## Turns") for claim in (SHOWN, OPEN, AGAINST))
    assert "| table |" in part_under(page, "## Turns")
    assert "1 trained networks of 0.40 to 0.40 million parameters, 7 steps each, gain +1.00 to +1.00 dB" in page


def test_a_page_without_doubts_says_so():
    page = findings_page([member()], [Section("Turns", [SHOWN], "Fig. 5")], command="make it")
    assert "No claim is contradicted." in page
    assert "None: every claim is decided." in page


def test_untrained_networks_show_nothing():
    with pytest.raises(ValueError, match="net are untrained and show nothing"):
        findings_page([member(weights="untrained", steps=None)], [], command="make it")
