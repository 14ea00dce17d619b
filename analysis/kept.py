"""Receptive fields that are computed once: a file that answers the same question is read instead."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from analysis.erf import effective_receptive_field
from analysis.field import ERF
from analysis.queries import query_positions
from analysis.sensitivity import NONE_ADDED, UNLIKE, Select, selector_name
from evssm.stamp import image_sha256, network_stamp


def kept_field(
    path: str | Path,
    net: Callable[..., Any],
    images: Sequence[Tensor],
    *,
    queries: Any = "centre",
    estimator: str = "rss",
    residual: str = "exclude",
    select: Select | None = None,
    n_queries: int = 16,
    seed: int = 0,
    command: str | None = None,
    **options: Any,
) -> ERF:
    """The receptive field of `net` (see `effective_receptive_field`), which `path` holds from then on.

    Where `path` already holds the field of the same weights, images, queries, estimator and residual, it is read: a
    run that was interrupted goes on where it stopped. Networks without a state dict are always computed.
    """
    path = Path(path)
    h, w = images[0].shape[-2:]
    stamp = network_stamp(net)
    question = {
        "network": stamp["network"],
        "weights": stamp["weights"],
        "overrides": stamp["overrides"],
        "images": [image_sha256(image[None] if image.dim() == 3 else image) for image in images],
        "queries": [list(place) for place in query_positions(queries, h, w, n_queries=n_queries, seed=seed)],
        "estimator": estimator,
        "select": selector_name(select),
    }
    if path.exists() and stamp["weights"] != "as given":
        found = ERF.load(path)
        answered = {key: found.provenance.get(key) for key in question}  # files of earlier versions know no `select`
        alike = found.provenance.get("frame", "image") == options.get("frame", "image")
        if answered == question and alike and found.provenance.get("residual") in (residual, UNLIKE, NONE_ADDED):
            return found
    field = effective_receptive_field(
        net,
        images,
        queries=queries,
        estimator=estimator,
        residual=residual,
        select=select,
        n_queries=n_queries,
        seed=seed,
        **options,
    )
    field.provenance["command"] = command
    field.save(path)
    return field
