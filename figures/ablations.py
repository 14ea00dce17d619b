"""The ablations of the supplement, Tables 9-13: published effects beside those of the compact networks."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from card import Picture, save_card
from fields import Track
from matplotlib.figure import Figure as Drawing
from scored import SCORES, forget_replaced, kept_scores, the_tests
from torch import Tensor

from analysis.ablate import files_of, measure_all
from analysis.ablation_panel import effect_caption, effect_panel, published_gaps
from analysis.ablation_table import Measured, ablation_table, verdicts
from analysis.ablations import ABLATIONS, Ablation
from analysis.verdicts import Verdict
from evssm.data.pairs import each
from evssm.metrics import Protocol
from evssm.weights import bundled, load


def make(track: Track) -> list[Path]:
    forget_replaced()
    tests = the_tests()
    written = []
    for ablation in ABLATIONS.values():
        test = tests[ablation.task]
        measured = measure_all(ablation, bundled(), test.pairs, test.data, SCORES, progress=track)
        table = ablation_table(ablation, measured, data=test.data, protocol=Protocol().describe())
        images = {pair.name: pair.blurred for pair in each(test.pairs)} if measured else {}
        written += _drawn(ablation, measured, table, images)
    return [*written, *kept_scores()]


def _drawn(
    ablation: Ablation, measured: Mapping[str, Measured], table: str, images: Mapping[str, Tensor]
) -> list[Path]:
    """The files of one ablation; its picture only where a claim could be put to the test."""
    claims = verdicts(ablation, measured)

    def arranged(captioned: bool, narrow: bool) -> Drawing:
        return effect_panel(ablation, claims, measured, stacked=narrow, captioned=captioned)

    names = {method.network for method in ablation.methods if method.network}
    files = {seed: path for name in sorted(names) for seed, path in files_of(name, bundled()).items()}
    return save_card(
        f"ablation_{ablation.name}",
        [Picture(arranged, _in_words(ablation, claims, measured))] if claims else [],
        script="ablations",
        table=table,
        caption=effect_caption(ablation, measured) if claims else "",
        weights=[load(path).provenance.as_dict() for path in files.values()],
        images=images,
        facts={"ablation": ablation.title, "claims": [str(claim) for claim in claims]},
    )


def _in_words(ablation: Ablation, claims: Sequence[Verdict], measured: Mapping[str, Measured]) -> str:
    gaps = published_gaps(ablation, measured)
    found = [
        f"{claim.claim}: published {'nowhere' if gap != gap else f'{gap:+.2f} dB'}, compact {claim.difference:+.3f} dB "
        f"between {claim.low:+.3f} and {claim.high:+.3f}, {claim.word}"
        for gap, claim in zip(gaps, claims, strict=True)
    ]
    return f"Differences in PSNR as dots on two scales, published and compact. {'; '.join(found)}."
