"""The small networks that are compared with each other cost about the same: what differs is what is compared."""

from functools import cache

import pytest
import torch

from analysis import cost
from evssm import MODELS, build

TRANSFORMS = ("evssm", "evssm-no-geot", "evssm-no-transpose", "evssm-no-flip", "evssm-four-direction")
KERNELS = ("evssm", "evssm-k3", "evssm-k5", "evssm-k7", "evssm-k9")
MAMBA2 = ("evssm2", "evssm2-no-geot")
BASELINES = ("mimo-unet-plus", "restormer", "fftformer", "stripformer")
OLDER = ("deblurgan", "ifan", "kpac", "kpac-two-level", "dpdnet")


@cache
def compact(name):
    return cost(build(f"{name}-compact"), 64)


def spread(numbers):
    """How much larger the largest is than the smallest."""
    return max(numbers) / min(numbers) - 1


@pytest.mark.parametrize("ablation", [TRANSFORMS, KERNELS, MAMBA2], ids=["transforms", "kernels", "mamba2"])
def test_parameters_and_operations_are_within_ten_percent_inside_an_ablation(ablation):
    found = [compact(name) for name in ablation]
    assert spread([one.parameters for one in found]) <= 0.1
    assert spread([one.total for one in found]) <= 0.1


def test_four_directions_in_as_many_blocks_would_not_pass():
    four, one = cost(build("evssm-four-direction-compact", depths=(2, 2, 2)), 64), compact("evssm")
    assert spread([four.parameters, one.parameters]) > 0.1
    assert spread([four.total, one.total]) > 0.1


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_has_evssms_parameters_within_ten_percent_and_multiply_adds_within_twenty(name):
    baseline, ours = compact(name), compact("evssm")
    assert baseline.parameters == pytest.approx(ours.parameters, rel=0.1)
    assert baseline.conv_linear_macs == pytest.approx(ours.conv_linear_macs, rel=0.2)


def test_nafnet_has_evssms_parameters_and_half_of_its_multiply_adds():
    nafnet, ours = compact("nafnet"), compact("evssm")
    assert nafnet.parameters == pytest.approx(ours.parameters, rel=0.1)
    assert 0.4 < nafnet.conv_linear_macs / ours.conv_linear_macs < 0.6


@pytest.mark.parametrize("name", OLDER)
def test_an_older_system_has_evssms_parameters_within_ten_percent(name):
    with torch.device("meta"):
        numbers = sum(p.numel() for p in build(f"{name}-compact").parameters())
    assert numbers == pytest.approx(compact("evssm").parameters, rel=0.1)


def test_srn_runs_fewer_parameters_three_times():
    srn, ours = compact("srn"), compact("evssm")
    assert srn.conv_linear_macs == pytest.approx(ours.conv_linear_macs, rel=0.1)
    assert srn.parameters < ours.parameters


@pytest.mark.parametrize("name", [name for name in MODELS if name.endswith("-compact")])
def test_a_small_network_has_every_level_and_kind_of_layer_of_the_large_one(name):
    with torch.device("meta"):
        small, large = (build(each) for each in (name, name.removesuffix("-compact")))
    assert {type(module) for module in small.modules()} == {type(module) for module in large.modules()}
    assert {stage.stride for stage in small.stages} == {stage.stride for stage in large.stages}
    assert sum(p.numel() for p in small.parameters()) < 600_000
