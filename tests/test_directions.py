"""VMamba's four scan directions, said with the symmetries of the square, against the official functions and blocks.

`golden/directions.npz` holds, from github.com/MzeroMiko/VMamba, 2ed52ea (torch path), the inputs and outputs of
`cross_scan` and `cross_merge` (integers) and, first batch item, the inputs (float32) and float64 outputs of three
of its SS2D blocks under weights that follow from the key names.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from weight_rule import ruled_state

from evssm.geometry import ANTI_TRANSPOSE, HALF_TURN, IDENTITY, TRANSPOSE
from evssm.scan import selective_scan

GOLDEN = {
    key: torch.from_numpy(value) for key, value in np.load(Path(__file__).parent / "golden" / "directions.npz").items()
}
FOUR = (IDENTITY, TRANSPOSE, HALF_TURN, ANTI_TRANSPOSE)
MODES = {0: FOUR, 1: (IDENTITY,) * 4, 2: (IDENTITY, IDENTITY, HALF_TURN, HALF_TURN)}


def cross_scan(maps, turns=FOUR):
    """The sequences `b k d l` of maps `b k d h w`: map k read row by row under turn k."""
    return torch.stack([turn(maps[:, k]).flatten(-2) for k, turn in enumerate(turns)], dim=1)


def cross_merge(sequences, h, w, turns=FOUR):
    """The sum of the maps that the sequences `b k d l` were read from, read row by row: `b d l`."""
    pairs = enumerate(turns)
    return sum(turn.inverse(sequences[:, k].unflatten(-1, turn.size(h, w))) for k, turn in pairs).flatten(-2)


def four_times(x):
    return x[:, None].expand(-1, 4, -1, -1, -1)


@pytest.mark.parametrize(("mode", "turns"), MODES.items())
def test_the_directions_are_turns_and_their_merge_the_inverse_turns(mode, turns):
    scanned = cross_scan(four_times(GOLDEN["scan.x_bchw"]), turns)
    assert torch.equal(scanned, GOLDEN[f"scan.mode{mode}_bkcl"])
    sequences = GOLDEN["merge.y_bkchw"].flatten(-2)
    assert torch.equal(cross_merge(sequences, 3, 4, turns), GOLDEN[f"merge.mode{mode}_bcl"])


def test_channels_may_come_last_and_each_direction_may_have_its_own_map():
    scanned = cross_scan(four_times(GOLDEN["scan.x_bchw"]))
    assert torch.equal(rearrange(scanned, "b k c l -> b l k c"), GOLDEN["scan.mode0_channel_last_blkc"])
    assert torch.equal(cross_scan(GOLDEN["scan1b1.x_bkchw"]), GOLDEN["scan1b1.mode0_bkcl"])


def test_scanning_and_merging_gives_four_times_the_map():
    x = GOLDEN["scan.x_bchw"]
    merged = cross_merge(cross_scan(four_times(x)), 3, 4)
    assert torch.equal(merged, GOLDEN["roundtrip.mode0_bcl"])
    assert torch.equal(merged, 4 * x.flatten(-2))


def test_the_merge_is_the_adjoint_of_the_scan():
    x, sequences = torch.randint(-9, 10, (2, 3, 5, 7)), torch.randint(-9, 10, (2, 4, 3, 35))
    there = (cross_scan(four_times(x)) * sequences).sum()
    assert there == (x.flatten(-2) * cross_merge(sequences, 5, 7)).sum()


def vmamba_block(x, w, state):
    """VMamba's SS2D of `b d h w` (Liu et al. 2024) with the official weights `w`; gated if the projection has room."""
    inner, (h, w_) = len(w["out_norm.weight"]), x.shape[-2:]
    projected = torch.einsum("bdhw,ed->behw", x, w["in_proj.weight"])
    u = F.silu(F.conv2d(projected[:, :inner], w["conv2d.weight"], w.get("conv2d.bias"), padding=1, groups=inner))
    sequences, outputs = cross_scan(four_times(u)), []
    A, D = (-w["A_logs"].exp()).chunk(4), w["Ds"].chunk(4)
    for k in range(4):
        selection = w["x_proj_weight"][k] @ sequences[:, k]
        t, B, C = selection.split([selection.shape[1] - 2 * state, state, state], dim=1)
        delta, bias = w["dt_projs_weight"][k] @ t, w["dt_projs_bias"][k]
        scanned = selective_scan(sequences[:, k], delta, A[k], B, C, D[k], delta_bias=bias, delta_softplus=True)
        outputs.append(scanned)
    y = cross_merge(torch.stack(outputs, dim=1), h, w_).mT
    y = F.layer_norm(y, (inner,), w["out_norm.weight"], w["out_norm.bias"]).mT.unflatten(-1, (h, w_))
    y = y * F.silu(projected[:, inner:]) if projected.shape[1] > inner else y
    return torch.einsum("behw,de->bdhw", y, w["out_proj.weight"])


def vmamba_shapes(width, state, ratio, *, gate, conv_bias):
    inner, rank = ratio * width, -(-width // 16)
    shapes = {
        "x_proj_weight": (4, rank + 2 * state, inner),
        "A_logs": (4 * inner, state),
        "Ds": (4 * inner,),
        "dt_projs_weight": (4, inner, rank),
        "dt_projs_bias": (4, inner),
        "in_proj.weight": (inner * (1 + gate), width),
        "conv2d.weight": (inner, 1, 3, 3),
        "out_norm.weight": (inner,),
        "out_norm.bias": (inner,),
        "out_proj.weight": (width, inner),
    }
    return shapes | ({"conv2d.bias": (inner,)} if conv_bias else {})


@pytest.mark.parametrize(
    ("name", "channels_last", "state", "shapes"),
    [
        ("v0", True, 4, vmamba_shapes(16, 4, 2, gate=True, conv_bias=True)),
        ("v3_channel_last", True, 4, vmamba_shapes(16, 4, 2, gate=True, conv_bias=True)),
        ("v05_noz_channel_first", False, 1, vmamba_shapes(16, 1, 1, gate=False, conv_bias=False)),
    ],
)
def test_vmamba_s_block_is_our_scan_under_the_four_turns(name, channels_last, state, shapes):
    x, golden = (GOLDEN[f"ss2d.{name}.{part}"].double() for part in ("x", "y"))
    x, golden = (t.movedim(-1, 1) if channels_last else t for t in (x, golden))
    y = vmamba_block(x, {key: value.double() for key, value in ruled_state(shapes).items()}, state)
    assert (y - golden).norm() < 1e-12 * golden.norm()
