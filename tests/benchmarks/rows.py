"""A row of a scan's implicit attention, as activation maps take it, against the whole matrix written out; and the rows
of many pixels in all modules of a network, together and one by one."""

from collections.abc import Iterator
from functools import partial

import torch
from compare import FLOOR, OURS, Row, in_turn
from floor import STATES, Rates
from torch import Tensor

from analysis.activations import ScanCache
from analysis.explorer_page import grid_pixels
from analysis.scan_rows import Scan, row
from evssm.models import build

CHANNELS = 96


def random_scan(l: int) -> Scan:
    """What EVSSM's untrained mixer would scan."""
    A = -torch.arange(1.0, STATES + 1).repeat(CHANNELS, 1)
    delta = torch.nn.functional.softplus(torch.randn(CHANNELS, l) - 4)
    B, C = torch.randn(2, 1, STATES, l)
    return Scan(torch.randn(CHANNELS, l), delta, A, B, C, torch.ones(CHANNELS))


def matrix(scan: Scan) -> Tensor:
    """Every entry alpha[t, s] of every channel, `d t s`, from sums of delta; memory grows with l squared."""
    sums = scan.delta.double().cumsum(-1).float()
    gap = (sums[:, :, None] - sums[:, None]).clamp_(min=0)
    total = torch.zeros_like(gap)
    for n in range(STATES):
        decay = (gap * scan.A[:, n, None, None]).exp_()
        total.addcmul_(decay, scan.C[:, n, :, None] * scan.B[:, n, None, :])
    return total.tril_() * scan.delta[:, None]


def rows(rounds: int, rates: Rates, small: bool) -> Iterator[Row]:
    for l in (64, 128) if small else (256, 512, 1024):
        scan = random_scan(l)
        expected, found = matrix(scan)[:, -1], row(scan, l - 1)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
        contenders = {OURS: partial(row, scan, l - 1), "whole matrix": partial(matrix, scan)}
        for who, times in in_turn(contenders, rounds).items():
            yield Row("rows", "the last row", l, who, tuple(times))
        yield Row("rows", "the last row", l, FLOOR, (CHANNELS * l * STATES / rates.exponentials,))
    yield from of_many_pixels(rounds, 32 if small else 128)


def of_many_pixels(rounds: int, side: int) -> Iterator[Row]:
    cache = ScanCache(build("evssm-compact"), torch.rand(3, side, side))
    pixels = grid_pixels(side, side, 4, 4)
    contenders = {
        OURS: lambda: cache.rows_of(pixels, keep_channels=False),
        "one by one": lambda: [cache.rows(pixel, keep_channels=False) for pixel in pixels],
    }
    for who, times in in_turn(contenders, rounds).items():
        yield Row("rows", f"{len(pixels)} pixels, {len(cache.names)} modules of evssm-compact", side, who, tuple(times))
