"""An ablation measured: scores of each method over images and seeds beside the published ones, and verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from analysis.ablations import Ablation, Method, published
from analysis.tasks import DUAL_PIXEL
from analysis.verdicts import Verdict
from evssm.bootstrap import percentile_interval


@dataclass(frozen=True, eq=False)
class Measured:
    """Scores of one method: `seeds images`, the images in one order for all methods; and what it costs.

    `parameters` and `multiply_adds` (of one forward pass at 256 x 256, self-ensemble included) are `None` where
    nobody counted; `seconds` is the median processor time of an image, `steps` those of training, 0 for untrained ones.
    """

    psnr: Float[np.ndarray, "seeds images"]
    ssim: Float[np.ndarray, "seeds images"]
    gain: Float[np.ndarray, "seeds images"]
    seconds: float
    steps: int
    parameters: int | None = None
    multiply_adds: float | None = None


def verdicts(ablation: Ablation, measured: Mapping[str, Measured]) -> list[Verdict]:
    """For each claim whose two methods were measured: the difference in PSNR, dB, over the same images.

    Intervals draw images, the same for both, and each method's seeds; with one seed each they say nothing about how
    training varies.
    """
    return [
        difference(f"{better} scores higher than {worse}", measured[better].psnr, measured[worse].psnr)
        for better, worse in ablation.claims
        if better in measured and worse in measured
    ]


def difference(
    claim: str,
    ours: Float[np.ndarray, "_ images"],
    theirs: Float[np.ndarray, "_ images"],
    *,
    n: int = 2000,
    seed: int = 0,
) -> Verdict:
    """The verdict on "ours scores higher than theirs", images paired; see `verdicts`."""
    generator = np.random.default_rng(seed)

    def value(scores: np.ndarray, images: np.ndarray) -> float:
        drawn = generator.integers(0, len(scores), len(scores))
        return float(scores[drawn][:, images].mean())

    low, high = percentile_interval(
        lambda images: value(ours, images) - value(theirs, images), ours.shape[1], n=n, seed=seed
    )
    return Verdict(claim, "PSNR in dB", "larger", float(ours.mean() - theirs.mean()), low, high)


def ablation_table(ablation: Ablation, measured: Mapping[str, Measured], *, data: str, protocol: str) -> str:
    """Markdown: published and own numbers side by side, each labelled, then the verdicts and how to rerun at scale."""
    head = ["method", "published PSNR / SSIM", "published cost", "seeds", "compact PSNR [dB]", "gain over the blurred"]
    head += ["SSIM", "parameters", "multiply-adds", "CPU s per image"]
    lines = [f"# {ablation.title}", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for method in ablation.methods:
        lines.append("| " + " | ".join(_cells(ablation, method, measured.get(method.label))) + " |")
    lines += ["", *_notes(ablation, measured, data, protocol)]
    found = verdicts(ablation, measured)
    if found:
        lines += ["", "## Does the published effect show at compact scale?", "", *(f"- {verdict}" for verdict in found)]
    dataset = "DPDD" if ablation.table == "13" else "GOPRO_Large"
    commands = [f"evssm train {m.paper} --profile paper --data {dataset}" for m in ablation.methods if m.paper]
    if commands:
        lines += ["", "## At the paper's scale", "", *(f"    {command}" for command in dict.fromkeys(commands))]
    return "\n".join(lines) + "\n"


def _notes(ablation: Ablation, measured: Mapping[str, Measured], data: str, protocol: str) -> Sequence[str]:
    where = "DPDD" if ablation.table == "13" else "GoPro"
    notes = [
        f"Published: {where}, full networks, as printed. Compact: small networks, not comparable in dB with those."
    ]
    if ablation.task == DUAL_PIXEL:
        notes = []
    if measured:
        images = next(iter(measured.values())).psnr.shape[1]
        steps = sorted({found.steps for found in measured.values()})
        notes += [
            f"Compact networks: {', '.join(map(str, steps))} training steps each; scores over {images} images of "
            f"{data}; {protocol}. In brackets, 95 % bootstrap intervals over images; after +-, the standard deviation "
            "of the seeds' means."
        ]
        if 0 in steps:
            notes += ["Some weights here are untrained: their scores say nothing about the methods."]
    return [*notes, *([ablation.note] if ablation.note else [])]


def _cells(ablation: Ablation, method: Method, found: Measured | None) -> list[str]:
    printed = published(ablation, method)
    scores = "-" if printed is None or printed.psnr is None else f"{printed.psnr:.2f} / {printed.ssim}"
    parts = [] if printed is None else [(printed.flops, "G"), (printed.runtime_ms, "ms")]
    cells = [method.label, scores, ", ".join(f"{value:g} {unit}" for value, unit in parts if value) or "-"]
    if found is None:
        return [*cells, *["-"] * 7]
    low, high = percentile_interval(lambda i: found.psnr[:, i].mean(), found.psnr.shape[1])
    spread = f" +- {found.psnr.mean(1).std(ddof=1):.3f}" if len(found.psnr) > 1 else ""
    cells += [str(len(found.psnr)), f"{found.psnr.mean():.2f}{spread} [{low:.2f}, {high:.2f}]"]
    cells += [f"{found.gain.mean():+.2f} dB", f"{found.ssim.mean():.4f}"]
    cells += ["-" if found.parameters is None else f"{found.parameters / 1e6:.3f} M"]
    cells += ["-" if found.multiply_adds is None else f"{found.multiply_adds / 1e9:.2f} G"]
    return [*cells, f"{found.seconds:.2f}"]
