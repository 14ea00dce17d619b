"""The page of findings, `analysis/FINDINGS.md`: Figs. 4 and 5, the ablations, and what scans can see, in verdicts."""

from pathlib import Path

import erf_networks
import erf_transforms
from fields import Track
from scored import SCORES, forget_replaced, kept_scores, the_tests
from sources import ROOT

from analysis.ablate import measure_all
from analysis.ablation_table import ablation_table, verdicts
from analysis.ablations import ABLATIONS
from analysis.field import ERF
from analysis.field_table import BEYOND
from analysis.findings import Section, findings_page
from analysis.trained_family import by_task, family_table, fates, reached
from analysis.verdicts import Verdict, compare
from evssm.metrics import Protocol
from evssm.provenance import written_whole
from evssm.weights import bundled

PAGE = ROOT / "analysis" / "FINDINGS.md"
COMMAND = "python figures/make.py findings"


def make(track: Track) -> list[Path]:
    forget_replaced()
    tests = the_tests()
    members = [reached(name, path, tests, SCORES, progress=track(name)) for name, path in bundled().items()]
    _, nearer = erf_networks.measured(track)
    turned, larger = erf_transforms.measured(track)
    sections = [
        Section(
            "What the turns do to the receptive field",
            larger,
            "supplement, Fig. 5",
            _numbers(erf_transforms.table(track)),
        ),
        Section(
            "The receptive field beside other networks'",
            nearer,
            "supplement, Fig. 4",
            _numbers(erf_networks.table(track)),
        ),
        Section(f"What a scan that is never turned has seen, beyond {BEYOND} px", _seen(turned)),
    ]
    for ablation in ABLATIONS.values():
        test = tests[ablation.task]
        scored = measure_all(ablation, bundled(), test.pairs, test.data, SCORES, progress=track)
        if claims := verdicts(ablation, scored):
            table = ablation_table(ablation, scored, data=test.data, protocol=Protocol().describe())
            rows = _rows(table)
            text = f"{rows}\n\n{test.scope}" if test.scope else rows
            sections.append(Section(ablation.title.partition(" (")[0], claims, ablation.source, text))
    decided = fates(members)
    for title, alike in by_task(members).items():
        sections.append(Section(f"The networks: {title.lower()}", [], "", _rows(family_table(alike, decided))))
    with written_whole(PAGE) as part:
        part.write_text(findings_page(members, sections, command=COMMAND), encoding="utf-8")
    return [PAGE, *kept_scores()]


def _rows(text: str) -> str:
    """The table alone, without what is said around it."""
    return "\n".join(line for line in text.splitlines() if line.startswith("|"))


def _numbers(table: str) -> str:
    """A figure's table without its verdicts, which this page counts and lists by itself."""
    return table.partition("\n## ")[0]


def _seen(fields: dict[str, list[ERF]]) -> list[Verdict]:
    """What rows above the query, and its own row before it, contribute: all that an unturned scan reaches."""
    never = fields["w/o F&T"]
    return [
        compare(
            f"w/o F&T gathers more from what a raster scan has seen than {title} does",
            never,
            theirs,
            lambda erf: erf.asymmetry(BEYOND).raster,
            label="raster-causal share",
        )
        for title, theirs in fields.items()
        if theirs is not never
    ]
