from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from weight_rule import ruled_state

from evssm.geometry import ANTI_TRANSPOSE, HALF_TURN, IDENTITY, TRANSPOSE
from evssm.mixer import SS2D
from evssm.scan import selective_scan

GOLDEN = np.load(Path(__file__).parent / "golden" / "evssm.npz")
FOUR = (IDENTITY, TRANSPOSE, HALF_TURN, ANTI_TRANSPOSE)


def shapes(module):
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


@pytest.mark.parametrize(("case", "width"), [("ss2d_d16_12x10", 16), ("ss2d_d40_5x9_b2", 40)])
def test_the_branch_is_the_official_one(case, width):
    mixer = SS2D(width)
    mixer.load_state_dict(ruled_state(shapes(mixer)))
    y = mixer.double()(torch.from_numpy(GOLDEN[f"{case}.x"]).double())
    assert_close(y[..., ::2, ::2], torch.from_numpy(GOLDEN[case]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("directions", [(IDENTITY,), (TRANSPOSE, HALF_TURN), FOUR])
@pytest.mark.parametrize("kernel", [(7,), (5, 5)])
def test_the_scan_inputs_are_what_the_scan_runs_on(directions, kernel):
    mixer, x = (
        SS2D(8, directions=directions, kernel=kernel).double(),
        torch.randn(2, 8, 5, 6, dtype=torch.float64),
    )
    inputs = mixer.scan_inputs(x)
    assert len(inputs) == len(directions)
    total = 0
    for turn, (u, delta, A, B, C, D) in zip(directions, inputs, strict=True):
        assert (delta > 0).all()
        assert (A < 0).all()
        y = selective_scan(u, delta, A, B, C, D, backend="reference")
        total = total + turn.inverse(y.unflatten(-1, turn.size(5, 6)))
    gate = torch.nn.functional.gelu(x.movedim(1, -1) @ mixer.in_proj.weight.chunk(2)[1].mT)
    by_hand = (mixer.out_norm(total).movedim(1, -1) * gate) @ mixer.out_proj.weight.mT
    assert_close(mixer(x), by_hand.movedim(-1, 1))


@pytest.mark.parametrize("turn", FOUR)
def test_four_equal_directions_do_not_care_how_the_map_lies(turn):
    mixer = SS2D(8, directions=FOUR, kernel=(3, 3)).double()
    with torch.no_grad():
        for name in ("x_proj_weight", "dt_projs_weight", "dt_projs_bias"):
            weight = getattr(mixer, name)
            weight.copy_(weight[:1].expand_as(weight))
        for weight in (mixer.conv2d.weight, mixer.x_conv.weight):  # kernels that the turns leave as they are
            weight.copy_(weight.mean(dim=(-2, -1), keepdim=True).expand_as(weight))
        mixer.x_conv.weight.copy_(mixer.x_conv.weight[:17].repeat(4, 1, 1, 1))
        mixer.x_conv.bias.copy_(mixer.x_conv.bias[:17].repeat(4))
    x = torch.randn(1, 8, 5, 6, dtype=torch.float64)
    assert_close(mixer(turn(x)), turn(mixer(x)))


def test_one_direction_does_care():
    mixer, x = SS2D(8).double(), torch.randn(1, 8, 5, 6, dtype=torch.float64)
    assert (mixer(HALF_TURN(x)) - HALF_TURN(mixer(x))).abs().max() > 1e-3


def test_one_dimensional_kernels_run_on_across_row_ends_and_two_dimensional_ones_do_not():
    for kernel, crosses in (((7,), True), ((7, 7), False)):
        mixer = SS2D(8, kernel=kernel).double()
        with torch.no_grad():
            x = torch.randn(1, 8, 12, 12, dtype=torch.float64)
            moved = x.clone()
            moved[..., 0, -1] += 1  # the last pixel of the first row
            before, after = (mixer.scan_inputs(image)[0].B.unflatten(-1, (12, 12)) for image in (x, moved))
        touched = (before != after).any(dim=1)[0]
        assert bool(touched[1, 0]) is crosses  # the first pixel of the second row
        assert touched[0, -1]


def test_a_window_as_large_as_the_map_changes_nothing_and_a_smaller_one_does():
    mixers = {window: SS2D(8, window=window).double() for window in (None, 9, 5)}
    for mixer in mixers.values():
        mixer.load_state_dict(mixers[None].state_dict())
    x = torch.randn(2, 8, 9, 7, dtype=torch.float64)
    assert torch.equal(mixers[9](x), mixers[None](x))
    assert (mixers[5](x) - mixers[None](x)).abs().max() > 1e-6


def test_steps_start_log_uniform_between_a_thousandth_and_a_tenth():
    bias = SS2D(64).dt_projs_bias.detach()
    step = torch.nn.functional.softplus(bias)
    assert 0.99e-3 < step.min() < 2e-3
    assert 0.06 < step.max() < 0.101
    assert abs(float(step.log().mean()) - np.log(1e-2)) < 0.5
