"""A network on pairs of images: a row of scores per image, written as it is finished."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from math import nan
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evssm.align import AlignmentError, align
from evssm.cautions import cautions
from evssm.data.pairs import Pairs, each
from evssm.inference import Health, Inference, demand_views, memory_report
from evssm.ledger import Ledger
from evssm.metrics import Protocol, psnr, rounded, ssim
from evssm.provenance import claimed, sha256_of
from evssm.scores import COLUMNS, Row, Scores
from evssm.stamp import network_stamp


@dataclass(frozen=True)
class Comparison:
    """One image against the sharp one; `note` says why there are no numbers, where there are none."""

    psnr: float
    ssim: float
    covered: float = 1.0
    note: str = ""


def compare(image: Tensor, sharp: Tensor, protocol: Protocol) -> Comparison:
    """The scores of one image `3 h w`; NaN, with a note, where it cannot be aligned."""
    rounding, mask, covered = protocol.rounding, None, 1.0
    x, y = image[None].cpu(), sharp[None].cpu()
    if protocol.alignment == "ecc":
        x, y = rounded(x, rounding), rounded(y, rounding)
        try:
            aligned = align(x[0], y[0])
        except AlignmentError as error:
            return Comparison(nan, nan, 0.0, f"not aligned: {error}")
        x, mask, covered, rounding = aligned.image[None], aligned.mask[None], aligned.covered, "none"
    shared: dict[str, Any] = {"rounding": rounding, "crop": protocol.crop, "mask": mask}
    scores = psnr(x, y, **shared).item(), ssim(x, y, variant=protocol.ssim, **shared).item()
    return Comparison(*scores, covered)


def evaluate(
    net: Callable[..., Any],
    pairs: Pairs,
    *,
    data: str,
    protocol: Protocol | None = None,
    inference: Inference | None = None,
    path: str | Path | None = None,
    untrained: bool = False,
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> Scores:
    """The scores of `net` on every pair, under a header that names all they depend on.

    `data` names the images, for the header. With `path`, a CSV table there gets each row as soon as it is finished;
    where it is there already, with the same header, rows of the same name and images are kept and the network does
    not run for them. `say` is told `cautions` before anything runs, and before a larger size runs the memory that
    it takes (see `memory_report`).

    Raises `ValueError` for a network without training, unless `untrained` allows it (the table then says so), for a
    table at `path` that was made otherwise or that another run is writing, for images with more or fewer views than the
    network takes, for pairs that share a name, for a network whose output has another size than the sharp image, and
    for images too large for the memory (counted only where `say` is given).
    """
    protocol, inference = protocol or Protocol(), inference or Inference()
    header = header_of(net, pairs, data, protocol, inference)
    if header["trained"] is False and not untrained:
        raise ValueError(f"{header['network']} has no trained weights, and scores of random ones mean nothing")
    if say:
        for line in cautions(header, data, protocol):
            say(f"caution: {line}")
    rows: dict[str, Row] = {}
    largest = 0
    with claimed(path) if path else nullcontext():
        ledger = Ledger(path, header, COLUMNS, lines=Scores(header, ()).lines) if path else None
        kept = {(row.name, row.pair): row for row in map(Row.read, ledger.rows if ledger else [])}
        if say and kept:
            say(f"{path} has {len(kept)} of {len(pairs)} rows already")
        for done, (blurred, sharp, name) in enumerate(each(pairs)):
            if progress:
                progress(done, len(pairs))
            name = " ".join(name.splitlines())
            if name in rows:
                raise ValueError(f"two pairs of {data} are called {name}; a table needs a name for each")
            digest = sha256_of({"blurred": blurred, "sharp": sharp})[:16]
            demand_views(net, blurred.shape[0])
            if (name, digest) not in kept:
                h, w = blurred.shape[-2:]
                if say and h * w > largest:
                    say(memory_report(net, inference, h, w, channels=blurred.shape[0]))
                largest = max(largest, h * w)
                kept[name, digest] = _row(net, blurred, sharp, name, digest, protocol, inference)
                if ledger:
                    ledger.append(asdict(kept[name, digest]))
            rows[name] = kept[name, digest]
        if progress:
            progress(len(pairs), len(pairs))
    return Scores(header, tuple(rows.values()))


def header_of(
    net: Callable[..., Any], pairs: Pairs, data: str, protocol: Protocol, inference: Inference
) -> dict[str, Any]:
    """All that scores depend on, in JSON values."""
    return {
        **network_stamp(net),
        "data": data,
        "pairs": len(pairs),
        "protocol": asdict(protocol),
        "inference": asdict(inference),
    }


def _row(
    net: Callable[..., Any],
    blurred: Tensor,
    sharp: Tensor,
    name: str,
    digest: str,
    protocol: Protocol,
    inference: Inference,
) -> Row:
    started = time.process_time()
    restored = inference(net, blurred[None])[0]
    seconds = time.process_time() - started
    if restored.shape != sharp.shape:
        raise ValueError(f"the network makes {tuple(restored.shape)} of {name}, where {tuple(sharp.shape)} is sharp")
    health, found = Health.of(restored), compare(restored, sharp, protocol)
    before = compare(_one_view(blurred), sharp, protocol)
    return Row(
        name=name,
        psnr=found.psnr,
        ssim=found.ssim,
        blurred_psnr=before.psnr,
        blurred_ssim=before.ssim,
        gain=nan if found.psnr == before.psnr == float("inf") else found.psnr - before.psnr,
        covered=found.covered,
        not_finite=health.not_finite,
        overshoot=health.overshoot,
        seconds=seconds,
        cost=inference.cost(*blurred.shape[-2:]),
        note="; ".join(part for part in (found.note, f"blurred {before.note}" if before.note else "") if part),
        pair=digest,
    )


def _one_view(blurred: Tensor) -> Tensor:
    """The blurred image; of a dual-pixel sensor's two views their mean, which is what an ordinary sensor sees."""
    return blurred if blurred.shape[0] == 3 else torch.stack(blurred.chunk(2)).mean(0)
