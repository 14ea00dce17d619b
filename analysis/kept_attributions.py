"""Attributions that are computed once: what a file already answers is read instead."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from analysis.attribution import Attribution, load_attributions, save_attributions
from analysis.attributions import Settings, local_attribution, question
from analysis.regions import Box, RegionScalar
from analysis.sensitivity import Select


def kept_attributions(
    path: str | Path,
    net: Callable[..., Any],
    image: Tensor,
    box: Box,
    methods: Sequence[str],
    *,
    settings: Settings,
    baseline: str | Tensor | None = None,
    reduce: str = "grad",
    residual: str = "include",
    select: Select | None = None,
    progress: Callable[[str], Callable[[int, int], object]] | None = None,
) -> dict[str, Attribution]:
    """The `local_attribution` of every method, by name, which `path` holds from then on.

    Written after every method, so that an interrupted run goes on where it stopped. What `path` holds for the same
    weights, image, region and settings is read; networks without a state dict are always computed. `baseline` is not
    for "lam". `progress` makes, from a method's name, what is called with (done, total) runs of the network.
    """
    path, image = Path(path), image.reshape(1, *image.shape[-3:])
    there = load_attributions(path) if path.exists() else {}
    there = {method: held for method, held in there.items() if method in methods}
    scalar = RegionScalar(net, box, reduce, select, residual)
    found: dict[str, Attribution] = {}
    for method in methods:
        start = None if method == "lam" else baseline
        asked = question(net, image, box, method=method, settings=settings, baseline=start, scalar=scalar)
        held = there.get(method)
        if held is not None and asked["weights"] != "as given" and _answers(held, asked):
            found[method] = held
            continue
        found[method] = local_attribution(
            net,
            image,
            box,
            method=method,
            steps=settings.steps,
            sigma=settings.sigma,
            window=settings.window,
            baseline=start,
            reduce=reduce,
            residual=residual,
            select=select,
            progress=progress(method) if progress else None,
        )
        save_attributions(path, {**there, **found})
    return found


def _answers(held: Attribution, asked: dict[str, Any]) -> bool:
    return all(held.provenance.get(key) == value for key, value in asked.items())
