"""Scans of networks that are not ours, seen through the operator."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from explicit_scan import matrix
from torch import nn

from analysis.activations import ScanCache, activation_maps, scan_row
from analysis.own_scans import Layout, laid_out, recorded_scans
from evssm.geometry import ANTI_TRANSPOSE, HALF_TURN, IDENTITY, TRANSPOSE
from evssm.scan import selective_scan

FOUR = (IDENTITY, TRANSPOSE, HALF_TURN, ANTI_TRANSPOSE)


class Own(nn.Module):
    """A scan at full size and one at half, written by somebody who knows nothing of stages."""

    def __init__(self, turns=(IDENTITY,), backend="auto"):
        super().__init__()
        self.turns, self.backend = turns, backend
        k = len(turns)
        self.A, self.D = (nn.Parameter(torch.rand(*s).double()) for s in ((3 * k, 2), (3 * k,)))
        self.mix = nn.Conv2d(3, 7, 1).double()

    def scan(self, x):
        h, w = x.shape[-2:]
        lines = [rearrange(turn(self.mix(x)), "b c h w -> b c (h w)") for turn in self.turns]
        u = torch.cat([rearrange(turn(x), "b c h w -> b c (h w)") for turn in self.turns], dim=1)
        delta = torch.cat([line[:, :3] for line in lines], dim=1)
        B, C = (torch.stack([line[:, part] for line in lines], dim=1) for part in (slice(3, 5), slice(5, 7)))
        y = selective_scan(u, delta, -self.A.exp(), B, C, self.D, delta_softplus=True, backend=self.backend)
        parts = y.chunk(len(self.turns), dim=1)
        return sum(
            turn.inverse(part.unflatten(-1, turn.size(h, w))) for turn, part in zip(self.turns, parts, strict=True)
        )

    def forward(self, x):
        half = self.scan(F.avg_pool2d(x, 2, ceil_mode=True))
        return x + self.scan(x) + F.interpolate(half, x.shape[-2:])


def an_image(h=5, w=8):
    return torch.rand(3, h, w, dtype=torch.float64)


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_every_scan_is_found_and_its_rows_are_those_of_its_matrix(backend):
    net, image = Own(backend=backend), an_image()
    rows = activation_maps(net, image, (4, 3))
    assert list(rows) == ["scan.0", "scan.1"]
    assert [(row.map.shape, row.stride, row.cell) for row in rows.values()] == [
        ((3, 4), 2, (2, 1)),
        ((5, 8), 1, (4, 3)),
    ]
    with recorded_scans() as scans, torch.no_grad():
        net(image[None])
    for scan, row, t in zip(scans, rows.values(), (2 * 4 + 1, 4 * 8 + 3), strict=True):
        expected = matrix(scan, "A3")[:, t]
        np.testing.assert_allclose(row.per_channel.reshape(3, -1), expected, rtol=1e-10, atol=1e-13)
        assert row.support.sum() == t + 1
        assert row.check() < 1e-12
    column = ScanCache(net, image).row((4, 3), "scan.1", kind="column")
    assert column.check() < 1e-12


def test_a_layout_says_how_directions_share_the_channels():
    net, image = Own(FOUR), an_image(4, 6)
    cache = ScanCache(
        net, image, layout=lambda number, l: Layout(4 // (2 - number), 6 // (2 - number), 2 - number, FOUR)
    )
    site, row = cache._sites["scan.1"], cache.row((1, 4), "scan.1")
    total = 0
    for turn, scan in site.bare.scans:
        place = turn(torch.arange(24).reshape(4, 6)).flatten()
        mixed = torch.zeros(3, 24, 24, dtype=torch.float64)
        mixed[:, place[:, None], place[None, :]] = matrix(scan, "A3")
        total = total + mixed
    np.testing.assert_allclose(row.per_channel.reshape(3, -1), total[:, 10], rtol=1e-10, atol=1e-13)
    assert row.support.all()
    assert row.check() < 1e-12


def test_a_plain_function_takes_part():
    net = Own()
    row = scan_row(lambda x: net(x), an_image(), (0, 0), "scan.0")
    assert row.untrained is False  # nobody knows
    assert row.provenance["weights"] == "as given"


def test_only_the_scan_is_known_of_such_a_network():
    net, image = Own(), an_image()
    with pytest.raises(ValueError, match="only the scan is known; choose from A0"):
        scan_row(net, image, (0, 0), "scan.0", level="A7")
    with pytest.raises(ValueError, match="output"):
        scan_row(net, image, (0, 0), "scan.0", reduction="output")
    with pytest.raises(LookupError, match=r"there are scan\.0, scan\.1"):
        scan_row(net, image, (0, 0), "scan.7")
    with pytest.raises(LookupError, match="not backend 'reference'"):
        scan_row(Own(backend="reference"), image, (0, 0), "scan.0")
    with pytest.raises(LookupError, match="fit an image of 5 x 8 px at no stride"):
        ScanCache(lambda x: net.scan(x[..., :4]), image)
    with pytest.raises(ValueError, match="does not fit it"):
        ScanCache(net, image, layout=lambda number, l: Layout(2, 2, 1))
    with pytest.raises(ValueError, match="a batch of 2"):
        ScanCache(lambda x: net(torch.cat([x, x])), image)


def test_groups_that_do_not_match_the_turns_are_refused():
    with recorded_scans() as scans, torch.no_grad():
        Own(FOUR)(an_image()[None])
    assert len(scans) == 2
    with pytest.raises(ValueError, match="12 channels and 4 groups"):
        laid_out(scans[1], 1, Layout(5, 8, 1, (IDENTITY, TRANSPOSE)))
