"""From networks to an ablation's files: scores per image, a table, a picture of effects, and where all came from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from analysis.ablation_panel import effect_panel
from analysis.ablation_table import Measured, ablation_table, verdicts
from analysis.ablations import Ablation, Method
from analysis.costs import cost
from analysis.panels import save_figure
from evssm.data.pairs import Pairs
from evssm.ensemble import ENSEMBLES
from evssm.evaluate import evaluate
from evssm.inference import Inference
from evssm.metrics import Protocol
from evssm.provenance import written_whole
from evssm.scores import Scores
from evssm.sidecar import write_sidecar
from evssm.weights import load

SEEDS = 10
COUNTED_AT = 256
"""Edge, in pixels, of the image for which multiply-adds are counted: the field's convention."""


def files_of(network: str, files: Mapping[str, Path]) -> dict[str, Path]:
    """Those of `files` (name -> weights) that hold seeds of a network: its name, and that with `-seed1` and so on."""
    names = (network, *(f"{network}-seed{k}" for k in range(1, SEEDS)))
    return {name: files[name] for name in names if name in files}


def measure(
    method: Method,
    files: Mapping[str, Path],
    pairs: Pairs,
    data: str,
    folder: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Measured | None:
    """The scores of every seed of a method, kept in `folder`; `None` where `files` has none of its networks.

    Each seed's table is named after it and the self-ensemble, so that ablations share what they have in common and a
    run that was interrupted goes on.
    """
    found = files_of(method.network, files) if method.network else {}
    if not found:
        return None
    kept: list[Scores] = []
    net: Any = None
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in found.items():
        net = load(path)
        table = folder / f"{name}{'' if method.ensemble == 'none' else f'_{method.ensemble}'}.csv"
        inference = Inference(ensemble=method.ensemble)
        kept.append(evaluate(net, pairs, data=data, inference=inference, path=table, progress=progress))
    taken = cost(net, COUNTED_AT)
    return Measured(
        **{key: _column(kept, key) for key in ("psnr", "ssim", "gain")},
        seconds=float(np.median(_column(kept, "seconds"))),  # the first image of a process also pays for compilation
        steps=int(net.provenance.steps or 0),
        parameters=taken.parameters,
        multiply_adds=len(ENSEMBLES[method.ensemble]) * taken.conv_linear_macs,
    )


def measure_all(
    ablation: Ablation,
    files: Mapping[str, Path],
    pairs: Pairs,
    data: str,
    folder: Path,
    *,
    progress: Callable[[str], Callable[..., None]] | None = None,
) -> dict[str, Measured]:
    """The methods of an ablation that `files` has networks of, by label; see `measure`."""
    measured: dict[str, Measured] = {}
    for method in ablation.methods:
        track = progress(f"{ablation.name}: {method.label}") if progress and files_of(method.network, files) else None
        found = measure(method, files, pairs, data, folder, progress=track)
        if found is not None:
            measured[method.label] = found
    return measured


def ablate(
    ablation: Ablation,
    files: Mapping[str, Path],
    pairs: Pairs,
    data: str,
    out: Path,
    *,
    command: str = "",
    progress: Callable[[str], Callable[..., None]] | None = None,
) -> list[Path]:
    """Measures every method of an ablation and writes `out/NAME.md`, `.png`, `.pdf` and `.json`; the files written.

    Methods without weights keep their published numbers and are left out of the picture, which is drawn only where a
    claim could be put to the test.
    """
    measured = measure_all(ablation, files, pairs, data, out / "scores", progress=progress)
    claims = verdicts(ablation, measured)
    table = out / f"{ablation.name}.md"
    with written_whole(table) as part:
        part.write_text(ablation_table(ablation, measured, data=data, protocol=Protocol().describe()), encoding="utf-8")
    facts = {
        "command": command,
        "ablation": ablation.title,
        "data": data,
        "claims": [str(claim) for claim in claims],
        "weights": {m.label: {n: p.name for n, p in files_of(m.network, files).items()} for m in ablation.methods},
    }
    written = [table, write_sidecar(out / f"{ablation.name}.json", facts)]
    if claims:
        written += save_figure(effect_panel(ablation, claims, measured), out / ablation.name, command=command)
    return written


def _column(kept: Iterable[Scores], key: str) -> np.ndarray:
    """`seeds images`, images in the order of their names."""
    return np.array([[getattr(row, key) for row in sorted(s.rows, key=lambda row: row.name)] for s in kept], float)
