"""What the trained compact family shows, as a page: every number and every verdict on it is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.trained_family import LEAST_GAIN, Reached
from analysis.verdicts import Verdict

WORDS = ("shown", "not shown", "contradicted")


@dataclass(frozen=True)
class Section:
    """A question put to the networks: a table in Markdown, if there is one, and verdicts on what was claimed.

    `source` says where the claims come from; without one they are the project's own expectations.
    """

    title: str
    claims: Sequence[Verdict]
    source: str = ""
    table: str = ""


def findings_page(members: Sequence[Reached], sections: Sequence[Section], *, command: str) -> str:
    """Markdown: a count of verdicts, what is at odds with the paper, then each question with its numbers.

    Raises `ValueError` for untrained networks, which can show nothing.
    """
    if idle := [one.name for one in members if not one.origin.trained]:
        raise ValueError(f"{', '.join(idle)} are untrained and show nothing; train them: evssm train --family")
    published = [(section, claim) for section in sections if section.source for claim in section.claims]
    lines = [
        "# What the compact family shows",
        "",
        f"Written by `{command}`; no number here was typed. {_scale(members)} Nothing here is a result of the paper, "
        "whose networks are far larger and were trained on GoPro for far longer: a claim that does not show at this "
        'scale may well hold at the paper\'s. "Shown" and "contradicted" mean that the whole '
        "95 % interval lies on one side; intervals draw images, and seeds where there are several. The recipe of "
        "training was chosen with the photographs of the motion test in sight, so that the gains there are somewhat "
        "flattering.",
        "",
        "| the paper's claims | " + " | ".join(WORDS) + " |",
        "|" + "---|" * (len(WORDS) + 1),
        *(_count(section) for section in sections if section.source),
        "",
        "## Where this is at odds with the paper",
        "",
        *_listed([claim for _, claim in published if claim.word == "contradicted"], "No claim is contradicted."),
        "",
        "Neither shown nor contradicted:",
        "",
        *_listed([claim for _, claim in published if claim.word == "not shown"], "None: every claim is decided."),
    ]
    for section in sections:
        lines += ["", f"## {section.title}"]
        lines += ["", *(f"- {claim}" for claim in section.claims)] if section.claims else []
        lines += ["", section.table.strip()] if section.table else []
    return "\n".join(lines) + "\n"


def _scale(members: Sequence[Reached]) -> str:
    steps = sorted({int(one.origin.steps or 0) for one in members})
    gains = [one.gain for one in members]
    low, high = min(one.parameters for one in members), max(one.parameters for one in members)
    return (
        f"{len(members)} trained networks of {low / 1e6:.2f} to {high / 1e6:.2f} million parameters, "
        f"{', '.join(map(str, steps))} steps each, gain {min(gains):+.2f} to {max(gains):+.2f} dB on images that "
        f"none was trained on (networks whose seeds gain less than {LEAST_GAIN} dB on average are left out)."
    )


def _count(section: Section) -> str:
    words = [claim.word for claim in section.claims]
    return f"| {section.title} ({section.source}) | " + " | ".join(str(words.count(word)) for word in WORDS) + " |"


def _listed(claims: Sequence[Verdict], otherwise: str) -> list[str]:
    return [f"- {claim}" for claim in claims] or [otherwise]
