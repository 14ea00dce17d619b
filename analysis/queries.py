"""Query pixels: which ones are asked, and how their maps are laid on top of each other."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

Position = tuple[int, int]


def query_positions(
    queries: str | Sequence[Any] | np.ndarray, h: int, w: int, *, n_queries: int = 16, seed: int = 0
) -> list[Position]:
    """The `(row, column)` of each query in an image of `h w` pixels.

    "centre" is `(h//2, w//2)`. "grid" is `n_queries` points at random places in the cells of a square grid
    (in some of them, drawn at random, where it has more), at least a quarter of each side away from the
    border. Anything else is one position or a sequence of them, checked.
    """
    if isinstance(queries, str):
        if queries == "centre":
            return [(h // 2, w // 2)]
        if queries == "grid":
            return _jittered_grid(h, w, n_queries, seed)
        raise ValueError(f'no queries "{queries}"; try "centre", "grid" or a list of (row, column)')
    found = np.asarray(queries)
    if found.shape == (2,):
        found = found[None]
    if found.ndim != 2 or found.shape[1] != 2 or len(found) == 0 or not np.issubdtype(found.dtype, np.integer):
        raise ValueError(f"queries are (row, column) pairs of whole numbers, got {queries!r}; try [(10, 20), (30, 40)]")
    for row, column in found:
        if not (0 <= row < h and 0 <= column < w):
            raise ValueError(
                f"query ({row}, {column}) lies outside the image of {h} x {w} px; "
                f"rows run from 0 to {h - 1}, columns from 0 to {w - 1}"
            )
    return [(int(row), int(column)) for row, column in found]


def _jittered_grid(h: int, w: int, n_queries: int, seed: int) -> list[Position]:
    if n_queries < 1:
        raise ValueError(f"a grid needs one query or more, got n_queries={n_queries}")
    if min(h, w) < 3:
        raise ValueError(f"an image of {h} x {w} px has no pixel a quarter of its sides inside; use a larger one")
    generator = np.random.default_rng(seed)
    edge = int(np.ceil(np.sqrt(n_queries)))
    cells = np.sort(generator.permutation(edge * edge)[:n_queries])
    places = np.stack(np.divmod(cells, edge), axis=1) + generator.random((n_queries, 2))
    margin = np.ceil(np.array([h, w]) / 4)
    room = np.array([h, w]) - 2 * margin
    return [(int(row), int(column)) for row, column in np.floor(margin + places / edge * room)]


def centred_on(
    field: Float[np.ndarray, "... h w"], query: Position, frame: tuple[int, int] | None = None
) -> Float[np.ndarray, "... H W"]:
    """`field` moved so that `query` comes to lie at `(H//2, W//2)` of a frame of that size, its own by default; zero
    where nothing moved in."""
    h, w = field.shape[-2:]
    high, wide = frame or (h, w)
    to_rows, from_rows = _overlap(h, high, high // 2 - query[0])
    to_columns, from_columns = _overlap(w, wide, wide // 2 - query[1])
    moved = np.zeros((*field.shape[:-2], high, wide), field.dtype)
    moved[..., to_rows, to_columns] = field[..., from_rows, from_columns]
    return moved


def _overlap(length: int, room: int, shift: int) -> tuple[slice, slice]:
    """Where a line moved by `shift` lands in a frame of so much room, and where that part came from."""
    target, source = max(shift, 0), max(-shift, 0)
    kept = min(length - source, room - target)
    return slice(target, target + kept), slice(source, source + kept)
