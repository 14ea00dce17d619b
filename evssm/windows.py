"""Overlapping windows that cover a map, as EVSSM's released test-time network places them, and their average."""

from collections.abc import Callable
from math import ceil

import torch

from evssm.shapes import Image, Maps


def window_origins(length: int, edge: int) -> tuple[int, ...]:
    """Where windows of `edge` pixels start so that they cover `length` pixels with about equal overlap.

    The steps are rounded up and the last window is moved back inside, so the origins are not symmetric: windows of a
    map that lies turned are not the turned windows.
    """
    edge = min(edge, length)
    count = (length - 1) // edge + 1
    step = edge if count == 1 else ceil((length - edge) / (count - 1) - 1e-8)
    inside = [origin for origin in range(0, length, step) if origin + edge < length]
    return (*inside, length - edge)


def split_windows(x: Image, edge: int) -> Maps:
    """The windows of `x`, at most `edge` pixels high and wide, row by row along the batch axis: `(windows b) c h
    w`."""
    h, w = x.shape[-2:]
    return torch.cat(
        [
            x[..., top : top + edge, left : left + edge]
            for top in window_origins(h, edge)
            for left in window_origins(w, edge)
        ]
    )


def merge_windows(parts: Image, edge: int, h: int, w: int) -> Maps:
    """The `h x w` map whose pixels are the plain mean of the windows that cover them: the inverse of
    `split_windows`."""
    places = [(top, left) for top in window_origins(h, edge) for left in window_origins(w, edge)]
    windows = parts.unflatten(0, (len(places), -1))
    total = parts.new_zeros(windows.shape[1], h, w, parts.shape[1]).permute(
        0, 3, 1, 2
    )  # channels-last, as the parts are
    cover = parts.new_zeros(h, w)
    for (top, left), window in zip(places, windows, strict=True):
        total[..., top : top + edge, left : left + edge] += window
        cover[top : top + edge, left : left + edge] += 1
    return total / cover


def in_windows(mix: Callable[[Image], Image], x: Image, edge: int | None) -> Image:
    """`mix(x)`, taken in windows and averaged where `x` is larger than `edge` pixels (`None`: never)."""
    h, w = x.shape[-2:]
    if edge is None or max(h, w) <= edge:
        return mix(x)
    return merge_windows(mix(split_windows(x, edge)), edge, h, w)
