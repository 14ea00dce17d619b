"""The page of findings, `analysis/FINDINGS.md`: Figs. 4 and 5, the ablations, and what scans can see, in verdicts."""

from pathlib import Path

import erf_networks
import erf_transforms
import torch
from fields import HERE, counter

from analysis.ablate import measure
from analysis.ablation_table import ablation_table, verdicts
from analysis.ablations import ABLATIONS
from analysis.field import ERF
from analysis.field_table import BEYOND, field_table
from analysis.findings import Section, findings_page
from analysis.trained_family import family_table, reached, straight_test
from analysis.verdicts import Verdict, compare
from evssm.cli.ablate import EXTENTS
from evssm.metrics import Protocol
from evssm.provenance import written_whole
from evssm.weights import bundled

SCORES = HERE / "data" / "scores"
COMMAND = "python figures/make.py findings"


def make() -> list[Path]:
    torch.set_num_threads(1)  # so that scores do not depend on the machine's cores
    pairs, data = straight_test(EXTENTS)
    members = [reached(name, path, pairs, data, SCORES, progress=counter(name)) for name, path in bundled().items()]
    networks, nearer = erf_networks.measured()
    turned, larger = erf_transforms.measured()
    sections = [
        Section("What the turns do to the receptive field", larger, "supplement, Fig. 5", field_table(turned)),
        Section("The receptive field beside other networks'", nearer, "supplement, Fig. 4", field_table(networks)),
        Section(f"What a scan that is never turned has seen, beyond {BEYOND} px", _seen(turned)),
    ]
    for ablation in ABLATIONS.values():
        found = {m.label: measure(m, bundled(), pairs, data, SCORES) for m in ablation.methods}
        scored = {label: one for label, one in found.items() if one is not None}
        if claims := verdicts(ablation, scored):
            table = ablation_table(ablation, scored, data=data, protocol=Protocol().describe())
            rows = "\n".join(line for line in table.splitlines() if line.startswith("|"))
            source = f"supplement, Table {ablation.table}" if ablation.table else "supplement, Fig. 5, taken as PSNR"
            sections.append(Section(ablation.title.partition(" (")[0], claims, source, rows))
    rows = "\n".join(line for line in family_table(members, data=data).splitlines() if line.startswith("|"))
    sections.append(Section("The networks", [], "", rows))
    page = HERE.parent / "analysis" / "FINDINGS.md"
    with written_whole(page) as part:
        part.write_text(findings_page(members, sections, command=COMMAND), encoding="utf-8")
    return [page]


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
