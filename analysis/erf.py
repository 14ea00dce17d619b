"""Effective receptive fields: how strongly each input pixel moves an output pixel (Luo et al. 2016)."""

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.borrow import borrowed, recomputes
from analysis.field import ERF
from analysis.inputs import check_fit, single_images
from analysis.queries import Position, centred_on, query_positions
from analysis.sensitivity import (
    ESTIMATORS,
    EXCLUDE,
    INCLUDE,
    Network,
    Select,
    check_reproducible,
    response,
    selector_name,
    sensitivity,
)
from evssm.stamp import image_sha256, network_stamp


def effective_receptive_field(
    net: Network,
    images: Tensor | Sequence[Tensor],
    *,
    queries: str | Sequence[Any] | np.ndarray = "centre",
    estimator: str = "rss",
    residual: str = "exclude",
    select: Select | None = None,
    n_queries: int = 16,
    seed: int = 0,
    frame: str = "image",
    batch: int = 1,
    checkpoint: bool | str = "auto",
    trained: bool | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> ERF:
    """How strongly each input pixel moves the output of `net` at the queries, on average over `images`.

    `net` is an `nn.Module` or any function of `b c h w` that returns `b c' h w`; `select` (a function or an
    index) picks the image of a network that returns several. `images` are `b c h w`, or a list of `c h w`
    of one size. `queries` is "centre", "grid" (`n_queries` jittered points from `seed`) or (row, column)
    pairs; maps are moved so that each query lies at `(h//2, w//2)`, and averaged over the queries that see
    a pixel. With J[c, p] the derivative of output channel c at the query by input p, pixel and channel,
    `estimator` is

        "rss"       sqrt(sum over output and input channels of J^2): no cancellation (default)
        "abs"       sum of abs(J)
        "signed"    sum of J, its sign kept: the negative lobes of a sharpening filter
        "replknet"  relu(gradient of sum_c relu(F[c, q])), summed over input channels (Ding et al. 2022)
        "mambair"   relu(gradient of sum_c F[c, q]), summed over input channels (Guo et al. 2024)

    A restorer adds its input back, a spike of height one at the query. `residual="exclude"` takes F(x) - x
    for F(x) where input and output have equally many channels (the provenance says so); pictures published
    with the last two estimators need "include".

    A map is as large as the image, so that one whose query lies off the centre loses what is moved out (the
    provenance says how much). `frame="whole"` makes it twice as high and wide, in which all of it has room.

    A module runs in evaluation mode with frozen parameters and is handed back as it was. `batch` images
    share a forward pass. `checkpoint` is for networks with a switch of that name, to recompute blocks in
    the backward pass; "auto" turns it on above 160 x 160 px. `trained` says what you know about the weights
    where the network has no `provenance`. `progress` is called with (done, total) vector-Jacobian products.
    `ValueError` where a map is zero everywhere or not finite, and where a plain function gives two answers
    to one image.
    """
    check_question(estimator, residual)
    if frame not in ("image", "whole"):
        raise ValueError(f'no frame "{frame}"; choose from image, whole')
    if batch < 1:
        raise ValueError(f"batch is the number of images in a forward pass, 1 or more; got {batch}")
    inputs = single_images(images)
    check_fit(net, inputs[0])
    h, w = inputs[0].shape[-2:]
    room = (h, w) if frame == "image" else (2 * h, 2 * w)
    positions = query_positions(queries, h, w, n_queries=n_queries, seed=seed)
    recompute = recomputes(net, checkpoint, h * w)
    stamp = network_stamp(net)
    starts = range(0, len(inputs), batch)
    tick = _counter(len(starts) * len(positions), progress)
    fields, outside, kind, started = [], [], residual, perf_counter()
    with borrowed(net, checkpoint=recompute):
        if not isinstance(net, nn.Module):  # only its owner can put such a network into evaluation mode
            check_reproducible(net, inputs[0], select)
        for start in starts:
            x = torch.cat(inputs[start : start + batch]).detach().clone().requires_grad_()
            y, kind = response(net, x, select, residual)
            maps, lost = _mean_over_queries(y, x, positions, room, estimator, tick)
            _check_maps(maps, start, len(inputs), estimator, kind)
            fields.append(maps)
            outside.append(lost)
    raw = np.concatenate(fields)
    mass = np.abs(raw).sum(axis=(1, 2))
    return ERF(
        per_image=raw / mass[:, None, None],
        mass=mass,
        coverage=_times_seen(positions, h, w, room) / len(positions),
        provenance={
            "estimator": estimator,
            "residual": kind,
            "select": selector_name(select),
            "queries": [list(query) for query in positions],
            "seed": seed,
            "size": [h, w],
            "frame": frame,
            "images": [image_sha256(image) for image in inputs],
            "share_outside_frame": float(np.concatenate(outside).mean()),
            **stamp,
            "trained": stamp["trained"] if trained is None else trained,
            "dtype": str(inputs[0].dtype).removeprefix("torch."),
            "device": str(inputs[0].device),
            "torch": torch.__version__,
            "seconds": round(perf_counter() - started, 3),
            "command": None,
        },
    )


def _mean_over_queries(
    y: Tensor,
    x: Tensor,
    positions: Sequence[Position],
    room: tuple[int, int],
    estimator: str,
    tick: Callable[[int], object],
) -> tuple[Float[np.ndarray, "b h w"], Float[np.ndarray, " b"]]:
    """The mean of the maps that see a pixel, all queries at the centre; the share of mass pushed out of the
    frame."""
    b, h, w = len(x), *x.shape[-2:]
    total, inside, everything = np.zeros((b, *room)), np.zeros(b), np.zeros(b)
    for k, query in enumerate(positions, start=1):
        maps = sensitivity(y, x, query, estimator, keep_graph=k < len(positions), done=tick)
        moved = centred_on(maps, query, room)
        total += moved
        inside += np.abs(moved).sum(axis=(1, 2))
        everything += np.abs(maps).sum(axis=(1, 2))
    mean = total / np.maximum(_times_seen(positions, h, w, room), 1)
    kept = inside / np.where(everything > 0, everything, 1)
    return mean, np.maximum(0, 1 - kept)


def _times_seen(positions: Sequence[Position], h: int, w: int, room: tuple[int, int]) -> Float[np.ndarray, "H W"]:
    """For each pixel, how many maps reach it once their queries have been moved to the centre."""
    return np.sum([centred_on(np.ones((h, w)), query, room) for query in positions], axis=0)


def _check_maps(maps: Float[np.ndarray, "b h w"], first: int, of: int, estimator: str, residual: str) -> None:
    """`ValueError`, naming the image, for a map that is not finite or zero everywhere."""
    for index, field in enumerate(maps, start=first):
        if not np.isfinite(field).all():
            raise ValueError(
                f"image {index} (counted from 0, of {of}) has a gradient that is not finite; "
                "try float64, or leave the image out"
            )
        if not field.any():
            advice = ['residual="include"'] if residual == EXCLUDE else []
            advice += ['estimator="rss"'] if estimator not in ("rss", "abs") else []
            what = "F(x) - x" if residual == EXCLUDE else "F(x)"
            raise ValueError(
                f'image {index} (counted from 0, of {of}): the "{estimator}" map of {what} is zero '
                f"everywhere, so it cannot be normalised; try {' or '.join([*advice, 'another query'])}"
            )


def _counter(queries: int, progress: Callable[[int, int], object] | None) -> Callable[[int], None]:
    """A function to call after each of the products that `queries` queries need, with their number per
    query."""
    done = 0

    def tick(per_query: int) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, queries * per_query)

    return tick


def check_question(estimator: str, residual: str) -> None:
    """`ValueError` for an unknown estimator or residual."""
    for what, asked, known in (("estimator", estimator, ESTIMATORS), ("residual", residual, (EXCLUDE, INCLUDE))):
        if asked not in known:
            raise ValueError(f'no {what} "{asked}"; choose from {", ".join(known)}')
