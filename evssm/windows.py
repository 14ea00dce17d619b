"""Overlapping windows that cover a map, as EVSSM's released test-time network places them, and their average."""

from collections.abc import Callable, Iterable
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
    return torch.cat([x[..., top : top + edge, left : left + edge] for top, left in _places(h, w, edge)])


def merge_windows(parts: Image, edge: int, h: int, w: int) -> Maps:
    """The `h x w` map whose pixels are the plain mean of the windows that cover them: the inverse of
    `split_windows`."""
    return _mean(parts.unflatten(0, (len(_places(h, w, edge)), -1)), edge, h, w)


def in_windows(mix: Callable[[Image], Image], x: Image, edge: int | None) -> Image:
    """`mix(x)`, taken in windows and averaged where `x` is larger than `edge` pixels (`None`: never).

    Without gradients one window is taken after the other, so that memory grows with the map's own size alone.
    """
    h, w = x.shape[-2:]
    if edge is None or max(h, w) <= edge:
        return mix(x)
    if torch.is_grad_enabled():
        return merge_windows(mix(split_windows(x, edge)), edge, h, w)
    windows = (x[..., top : top + edge, left : left + edge] for top, left in _places(h, w, edge))
    return _mean((mix(window) for window in windows), edge, h, w)


def _places(h: int, w: int, edge: int) -> list[tuple[int, int]]:
    """Where windows start, row by row."""
    return [(top, left) for top in window_origins(h, edge) for left in window_origins(w, edge)]


def _mean(windows: Iterable[Image], edge: int, h: int, w: int) -> Maps:
    """The mean of the windows that cover a pixel, in the order of their places."""
    total = cover = None
    for (top, left), window in zip(_places(h, w, edge), windows, strict=True):
        if total is None or cover is None:
            b, c = window.shape[:2]
            total = window.new_zeros(b, h, w, c).permute(0, 3, 1, 2)  # channels-last, as windows are
            cover = window.new_zeros(h, w)
        total[..., top : top + edge, left : left + edge] += window
        cover[top : top + edge, left : left + edge] += 1
    assert total is not None
    assert cover is not None
    return total / cover
