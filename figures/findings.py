"""The page of findings, `analysis/FINDINGS.md`: Figs. 4 and 5, the ablations, and what scans can see, in verdicts."""

from pathlib import Path

import erf_networks
import erf_transforms
from fields import Track
from scored import SCORES, forget_replaced, kept_scores, the_test
from sources import ROOT

from analysis.ablate import measure_all
from analysis.ablation_table import ablation_table, verdicts
from analysis.ablations import ABLATIONS
from analysis.field import ERF
from analysis.field_table import BEYOND
from analysis.findings import Section, findings_page
from analysis.trained_family import family_table, reached
from analysis.verdicts import Verdict, compare
from evssm.metrics import Protocol
from evssm.provenance import written_whole
from evssm.weights import bundled

PAGE = ROOT / "analysis" / "FINDINGS.md"
COMMAND = "python figures/make.py findings"


def make(track: Track) -> list[Path]:
    forget_replaced()
    pairs, data = the_test()
    members = [reached(name, path, pairs, data, SCORES, progress=track(name)) for name, path in bundled().items()]
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
        scored = measure_all(ablation, bundled(), pairs, data, SCORES, progress=track)
        if claims := verdicts(ablation, scored):
            table = ablation_table(ablation, scored, data=data, protocol=Protocol().describe())
            rows = "\n".join(line for line in table.splitlines() if line.startswith("|"))
            source = f"supplement, Table {ablation.table}" if ablation.table else "supplement, Fig. 5, taken as PSNR"
            sections.append(Section(ablation.title.partition(" (")[0], claims, source, rows))
    rows = "\n".join(line for line in family_table(members, data=data).splitlines() if line.startswith("|"))
    sections.append(Section("The networks", [], "", rows))
    with written_whole(PAGE) as part:
        part.write_text(findings_page(members, sections, command=COMMAND), encoding="utf-8")
    return [PAGE, *kept_scores()]


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
