"""The Mamba-2 block against the official one, and against its parts.

`golden/mamba.npz` holds the input (first batch item, float32) and the float64 results `[:, ::4, ::4]` of the blocks of
github.com/state-spaces/mamba, e9594ce (`mamba_simple.py`, `mamba2.py`), under weights that follow from the key names.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch.testing import assert_close
from weight_rule import ruled_state

from evssm.mamba2 import Mamba2
from evssm.scan import selective_scan
from evssm.ssd import ssd_scan

GOLDEN = {
    key: torch.from_numpy(value).double()
    for key, value in np.load(Path(__file__).parent / "golden" / "mamba.npz").items()
}
OFFICIAL_KEYS = [
    *("dt_bias", "A_log", "D", "in_proj.weight", "conv1d.weight", "conv1d.bias", "norm.weight", "out_proj.weight"),
]


def ruled(block):
    """The block with the goldens' weights, in float64."""
    block.load_state_dict(ruled_state({key: tuple(t.shape) for key, t in block.state_dict().items()}))
    return block.double()


def as_map(tokens, h):
    return rearrange(tokens, "b (h w) c -> b c h w", h=h)


def as_tokens(x):
    return rearrange(x, "b c h w -> b (h w) c")


def assert_golden(tokens, name):
    ours, golden = tokens[:, ::4, ::4], GOLDEN[name]
    assert (ours - golden).norm() < 1e-13 * golden.norm()


@pytest.mark.parametrize("h", [1, 6])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("mamba2_d48_h24", {"state": 64, "head": 24}),
        ("mamba2_d48_h32_g3_hdimD", {"state": 16, "head": 32, "groups": 3, "d_per_channel": True}),
    ],
)
def test_the_block_is_the_official_one_however_the_pixels_are_arranged(name, arguments, h):
    block = ruled(Mamba2(48, expand=2, **arguments))
    assert list(block.state_dict()) == OFFICIAL_KEYS
    assert_golden(as_tokens(block(as_map(GOLDEN["x"], h))), name)


def test_without_its_norm_it_is_the_official_block_without_norm():
    block, x = ruled(Mamba2(48, expand=2, state=16, head=24)), GOLDEN["x"]
    y = ssd_scan(*block.scan_inputs(as_map(x, 6))).flatten(2)
    z = x @ block.in_proj.weight[: y.shape[-1]].mT
    assert_golden(block.out_proj(y * F.silu(z)), "mamba2_d48_nonorm")


def test_mamba_1_from_its_parts_is_the_official_block():
    """The other scan in its own first home: the parts are too few to make a module of."""
    x, inner, rank, n = GOLDEN["x"], 96, 3, 16
    shapes = {"in_proj.weight": (2 * inner, 48), "conv1d.weight": (inner, 1, 4), "conv1d.bias": (inner,)}
    shapes |= {"A_log": (inner, n), "D": (inner,), "x_proj.weight": (rank + 2 * n, inner)}
    shapes |= {"dt_proj.weight": (inner, rank), "dt_proj.bias": (inner,), "out_proj.weight": (48, inner)}
    w = {key: value.double() for key, value in ruled_state(shapes).items()}
    u, z = (x @ w["in_proj.weight"].mT).mT.chunk(2, dim=1)
    u = F.silu(F.conv1d(u, w["conv1d.weight"], w["conv1d.bias"], padding=3, groups=inner)[..., :-3])
    t, B, C = (w["x_proj.weight"] @ u).split([rank, n, n], dim=1)
    delta = F.softplus(w["dt_proj.weight"] @ t + w["dt_proj.bias"][:, None])
    y = selective_scan(u, delta, -w["A_log"].exp(), B, C, w["D"])
    assert_golden((y * F.silu(z)).mT @ w["out_proj.weight"].mT, "mamba1_d48")


@pytest.mark.parametrize(("head", "parameters"), [(12, 21592), (24, 21388), (48, 21286)])
def test_parameters_are_as_many_as_officially(head, parameters):
    block = Mamba2(48, state=64, head=head, expand=2)
    assert sum(p.numel() for p in block.parameters()) == parameters


def test_with_the_defaults_evssm2_has_the_published_24_million_parameters():
    """Kong et al. 2025, supplement, Table 9: EVSSM with Mamba-2 in place of the SSM branch of each block."""
    total = 417_312  # embedding, four resizes, output
    for width, blocks in ((48, 12), (96, 12), (192, 24)):
        norms, ffn = 4 * width, 40 * width + 9 * width**2 + 54 * width
        total += blocks * (sum(p.numel() for p in Mamba2(width).parameters()) + norms + ffn)
    assert total == 24_000_516


@pytest.mark.parametrize(("groups", "d_per_channel", "kernel"), [(1, False, 4), (2, True, 3), (4, False, 1)])
def test_the_scan_inputs_are_the_projected_and_convolved_pixels(groups, d_per_channel, kernel):
    block = Mamba2(8, state=5, head=4, expand=2, groups=groups, kernel=kernel, d_per_channel=d_per_channel).double()
    x = torch.randn(2, 8, 5, 7, dtype=torch.float64)
    inputs = block.scan_inputs(x)
    projected = as_tokens(x) @ block.in_proj.weight.mT
    z, xBC, raw = projected.split([16, 16 + 10 * groups, 4], dim=-1)
    convolved = block.conv1d.bias.expand_as(xBC).clone()
    for back in range(min(kernel, 35)):  # tap by tap: step t sees steps t, t - 1, ...
        tap = block.conv1d.weight[:, 0, kernel - 1 - back]
        convolved[:, back:] += tap * xBC[:, : 35 - back]
    values, B, C = F.silu(convolved).split([16, 5 * groups, 5 * groups], dim=-1)
    assert_close(inputs.x.flatten(2), values)
    assert_close((inputs.B.flatten(2), inputs.C.flatten(2)), (B, C))
    assert_close(inputs.dt, F.softplus(raw + block.dt_bias))
    assert_close(inputs.A, -block.A_log.exp())

    gated = ssd_scan(*inputs).flatten(2) * F.silu(z)
    runs = gated.unflatten(-1, (groups, -1))
    runs = runs / (runs.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
    assert_close(as_tokens(block(x)), (runs.flatten(2) * block.norm.weight) @ block.out_proj.weight.mT)


def test_a_pixel_changes_itself_and_all_later_ones_alone():
    block, x = Mamba2(8, state=4, head=4).double(), torch.randn(1, 8, 6, 5, dtype=torch.float64)
    moved = x.clone()
    moved[..., 2, 3] += 1
    changed = (block(moved) - block(x)).abs().amax(dim=1).flatten() > 0
    assert changed.nonzero().flatten().tolist() == list(range(2 * 5 + 3, 30))


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (2, 1), (5, 7), (33, 2)])
def test_any_size_and_either_memory_layout_will_do(size):
    block, x = Mamba2(4, state=3, head=2).double(), torch.randn(2, 4, *size, dtype=torch.float64)
    y = block(x)
    assert y.shape == x.shape
    assert_close(block(x.contiguous(memory_format=torch.channels_last)), y)
    assert_close(torch.cat([block(image[None]) for image in x]), y)


def test_half_precision_is_kept_outside_the_scan():
    block, x = Mamba2(16, state=8, head=16), torch.randn(1, 16, 6, 6)
    half = block.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert_close(half.float(), block.float()(x), rtol=0.1, atol=0.05)


def test_it_starts_with_the_steps_and_decays_of_the_paper():
    block = Mamba2(48, head=1)
    steps, decays = F.softplus(block.dt_bias), block.A_log.exp()
    assert steps.min() >= 1e-3 * (1 - 1e-4)
    assert steps.max() <= 1e-1 * (1 + 1e-4)
    assert 0.3 < (steps < 1e-2).float().mean() < 0.7  # half of them below the geometric mean
    assert decays.min() >= 1 - 1e-5
    assert decays.max() <= 16 + 1e-4
    assert 7 < decays.mean() < 10
    assert (block.D == 1).all()
    assert (block.norm.weight == 1).all()


def test_a_head_that_does_not_fit_is_refused_with_those_that_do():
    with pytest.raises(
        ValueError, match=r"head=64 does not divide expand \* width = 96 .*\[1, 2, 3, 4, 6, 8, 12, 16, "
    ):
        Mamba2(48, expand=2, head=64)


def test_groups_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="groups=3 does not divide the 4 heads"):
        Mamba2(48, expand=2, head=24, groups=3)
