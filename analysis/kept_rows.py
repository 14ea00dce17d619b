"""Activation maps in a file, and maps that are computed once: a file that answers the same question is read instead."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from analysis.activations import ScanCache, knows_its_scans, query_pixel, scanning_stages
from analysis.archive import read_archive, write_archive
from analysis.row_map import ScanRow
from evssm.stamp import image_sha256, network_stamp

ARRAYS = ("map", "support", "rebuilt", "output", "per_channel")
FACTS = ("stage", "kind", "level", "reduction", "normalisation", "query", "cell", "stride", "size", "provenance")
PAIRS = ("query", "cell", "size")


def save_rows(path: str | Path, rows: Mapping[str, ScanRow]) -> Path:
    """Write the maps, with their channels where they have them, to `path`, an npz without pickles; whole or not at all.

    Arrays are named "NAME/map", "NAME/support" and so on; "rows" holds the rest as JSON.
    """
    arrays: dict[str, Any] = {
        f"{name}/{part}": getattr(row, part)
        for name, row in rows.items()
        for part in ARRAYS
        if getattr(row, part) is not None
    }
    facts = {name: {fact: getattr(row, fact) for fact in FACTS} for name, row in rows.items()}
    return write_archive(path, "rows", facts, arrays)


def load_rows(path: str | Path) -> dict[str, ScanRow]:
    """The maps that `save_rows` wrote.

    `FileNotFoundError` where there is no file, and a `ValueError` of one line for any other content.
    """
    with read_archive(path, "activation maps", "save_rows") as entries:
        facts = json.loads(str(entries["rows"]))
        return {name: _row(name, fact, entries) for name, fact in facts.items()}


def _row(name: str, facts: dict[str, Any], entries: Any) -> ScanRow:
    arrays: dict[str, Any] = {part: entries[f"{name}/{part}"] for part in ARRAYS if f"{name}/{part}" in entries}
    others = {key: tuple(value) if key in PAIRS else value for key, value in facts.items()}
    return ScanRow(**{"per_channel": None, **arrays, **others})


def kept_rows(
    path: str | Path,
    net: Callable[..., Any],
    image: Tensor,
    query: tuple[int, int] | str,
    stages: str | Sequence[str] | None = None,
    *,
    level: str = "A3",
    reduction: str = "abs",
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, ScanRow]:
    """`activation_maps` without channels, which `path` holds from then on.

    Where `path` already answers for the same weights, image, query, stages, level and reduction, it is read. Networks
    whose stages are not known to scan are always computed.
    """
    path, image = Path(path), image.reshape(1, *image.shape[-3:])
    names = None
    if knows_its_scans(net):
        names = [stage.name for stage in scanning_stages(net, [stages] if isinstance(stages, str) else stages)]
    stamp = network_stamp(net)
    place = query_pixel(query, image.shape[-2], image.shape[-1])
    question = {
        **{key: stamp[key] for key in ("network", "weights", "overrides", "trained")},
        "image": image_sha256(image),
        "query": list(place),
        "level": level,
        "reduction": reduction,
    }
    if path.exists():
        rows = load_rows(path)
        answered = [{key: row.provenance.get(key) for key in question} for row in rows.values()]
        if [row.stage for row in rows.values()] == names and all(found == question for found in answered):
            return rows
    cache = ScanCache(net, image, stages)
    found = cache.rows(place, level=level, reduction=reduction, keep_channels=False, progress=progress)
    save_rows(path, found)
    return found
