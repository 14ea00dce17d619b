import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from released_layout import ReleasedEVSSM
from torch import nn
from torch.testing import assert_close
from weight_rule import ruled_image, ruled_state

from evssm.geometry import HALF_TURN, IDENTITY, TRANSPOSE
from evssm.layers import Resize
from evssm.mixer import SS2D
from evssm.models import MODELS, build
from evssm.models.evssm import EVSSM, NAMING, Block, FrequencyFFN, infer
from evssm.naming import official_keys

GOLDEN = np.load(Path(__file__).parent.parent / "golden" / "evssm.npz")
TINY = {"width": 16, "depths": (1, 2, 1)}
VARIANTS = [name for name in MODELS if name.startswith("evssm") and name.endswith("-compact")]


def ruled(net):
    keys = official_keys(net, NAMING)
    state = net.state_dict()
    values = ruled_state({official: tuple(state[ours].shape) for official, ours in keys.items()})
    net.load_state_dict({keys[official]: value for official, value in values.items()})
    return net.double().requires_grad_(False)


def close(ours, golden):
    assert_close(ours, torch.from_numpy(golden), rtol=0, atol=1e-10 * np.abs(golden).max())


@pytest.mark.parametrize(
    ("case", "arguments", "seed", "shape"),
    [
        ("evssm_train_64x64", {}, 0, (1, 3, 64, 64)),
        ("evssm_test_48x80", {"local": True}, 2, (1, 3, 48, 80)),
        ("evssm_test_52x76_win32-16-8", {"local": (32, 16, 8)}, 3, (1, 3, 52, 76)),
        ("evssm_tiny_32x64", TINY, 5, (1, 3, 32, 64)),
        ("evssm_tiny_b2_32x32", TINY, 6, (2, 3, 32, 32)),
    ],
)
def test_the_output_is_the_official_one(case, arguments, seed, shape):
    with torch.no_grad():
        y = ruled(build("evssm", **arguments))(ruled_image(seed, *shape).double())
    close(y[..., ::8, ::8], GOLDEN[case])


@pytest.mark.parametrize(
    ("case", "arguments", "seed", "shape"),
    [("evssm_train_64x64_grad", {}, 0, (1, 3, 64, 64)), ("evssm_tiny_32x64", TINY, 5, (1, 3, 32, 64))],
)
@pytest.mark.parametrize("recompute", [False, True])
def test_the_gradient_of_the_centre_is_the_official_one_also_when_blocks_are_recomputed(
    case, arguments, seed, shape, recompute
):
    net, x = ruled(build("evssm", **arguments)), ruled_image(seed, *shape).double().requires_grad_()
    net.checkpoint = recompute
    h, w = shape[-2:]
    (gradient,) = torch.autograd.grad(net(x)[0, :, h // 2, w // 2].sum(), x)
    close(gradient[0].abs().sum(dim=0)[::4, ::4], GOLDEN[f"{case}.erf"])


PARTS = {
    "edffn_test_d8_13x18": lambda: FrequencyFFN(8, 3, bias=False),
    "evs_idx0_train_d16_16x8": lambda: Block(16, TRANSPOSE, SS2D, None, 3, bias=False),
    "evs_idx0_test_win10_d16_23x14": lambda: Block(16, TRANSPOSE, SS2D, 10, 3, bias=False),
    "evs_idx1_test_win10_d16_23x14": lambda: Block(16, HALF_TURN, SS2D, 10, 3, bias=False),
    "downsample_d8_10x14": lambda: Resize(8, 16, 0.5),
    "upsample_d8_5x7": lambda: Resize(8, 4, 2),
}


@pytest.mark.parametrize("case", PARTS)
def test_each_part_is_the_official_one(case):
    part = nn.ModuleDict({"0": PARTS[case]()})
    if case.startswith("edffn"):
        renames = ((r"^0\.spectrum\.gain", "fft"), (r"^0\.", ""))
    elif case.startswith("evs"):
        renames = (
            (r"^0\.norm([12])\.", r"norm\1.body."),
            (r"^0\.mixer", "attn"),
            (r"^0\.ffn\.spectrum\.gain", "ffn.fft"),
            (r"^0\.", ""),
        )
    else:
        renames = ((r"^0\.conv", "body.1"),)
    keys = official_keys(part, type(NAMING)(renames))
    values = ruled_state({official: tuple(part.state_dict()[ours].shape) for official, ours in keys.items()})
    part.load_state_dict({keys[official]: value for official, value in values.items()})
    with torch.no_grad():
        y = part.double()["0"](torch.from_numpy(GOLDEN[f"{case}.x"]).double())
    close(y[..., ::2, ::2], GOLDEN[case])


def test_the_state_dict_is_the_official_one():
    """Count, order and shapes as in the released checkpoint (`kkkls/EVSSM` 5098a52)."""
    net = build("evssm")
    keys, state = official_keys(net, NAMING), net.state_dict()
    listing = "\n".join(f"{official}:{tuple(state[ours].shape)}" for official, ours in keys.items())
    assert len(keys) == 1014
    assert sum(p.numel() for p in net.parameters()) == 17_129_472
    assert (
        hashlib.sha256(listing.encode()).hexdigest()
        == "af46d5e060ba2e1a28e33359308b76f4ec686343b0b2ac0940965a60f74e9ec4"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        {"width": 24, "depths": (2, 1, 3), "ffn_expansion": 2.5, "bias": True},
        {"depths": (1, 1, 1, 2, 1, 1), "width": 16},
    ],
)
def test_the_arguments_follow_from_the_shapes(arguments):
    net = build("evssm", **arguments)
    state = net.state_dict()
    found = infer({official: tuple(state[ours].shape) for official, ours in official_keys(net, NAMING).items()})
    assert {key: found[key] for key in arguments} == arguments


def test_it_equals_the_released_layout_in_values_and_gradients():
    released = ReleasedEVSSM(16, (2, 1, 3)).double()
    for p in released.parameters():
        nn.init.normal_(p, std=0.3)
    net = build("evssm", width=16, depths=(2, 1, 3)).double()
    keys = official_keys(net, NAMING)
    net.load_state_dict({keys[key]: value for key, value in released.state_dict().items()})
    x = torch.rand(2, 3, 32, 64, dtype=torch.float64)
    weight = torch.randn_like(x)
    assert_close(net(x), released(x))
    theirs = torch.autograd.grad((released(x) * weight).sum(), list(released.parameters()))
    ours = torch.autograd.grad(
        (net(x) * weight).sum(), [net.get_parameter(keys[name]) for name, _ in released.named_parameters()]
    )
    for gradient, expected in zip(ours, theirs, strict=True):
        assert_close(gradient, expected, rtol=1e-7, atol=1e-9 * float(expected.abs().max()) + 1e-14)


def silent(net):
    """The network with every branch off and every convolution a copy: what remains are the turns and resizings."""
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
        nn.init.dirac_(net.embed.weight)
        for resize in (*net.down, *net.up):
            nn.init.dirac_(resize.conv.weight)
    return net


@pytest.mark.parametrize("depths", [(6, 6, 12), (1, 2, 1), (2, 3, 5), (1, 1, 1, 2, 3, 4), (3, 1, 2, 1, 2, 2)])
@pytest.mark.parametrize("name", ["evssm", "evssm-no-transpose", "evssm-no-flip", "evssm-no-geot"])
def test_every_frame_brings_the_image_upright(name, depths):
    """Coordinates go in as colours; each stage's map, turned by its frame, must show them where they belong."""
    net = silent(build(name, width=4, depths=depths)).double()
    h, w = 32, 64
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    image = torch.stack([rows, columns, torch.zeros(h, w)])[None].double()
    seen = {}
    handles = [
        net.get_submodule(stage.name).register_forward_hook(
            lambda _m, _i, y, name=stage.name: seen.__setitem__(name, y)
        )
        for stage in net.stages
    ]
    net(image)
    for handle in handles:
        handle.remove()
    blocks = [stage for stage in net.stages if stage.name.count(".") == 2 and stage.name.split(".")[-1].isdigit()]
    assert len(blocks) == (sum(depths) if len(depths) == 6 else 2 * sum(depths))
    for stage in net.stages:
        stored = seen[stage.name]
        assert stored.shape[1] == stage.channels
        assert stored.shape[-2:] == stage.frame.size(h // stage.stride, w // stage.stride)
    for stage in blocks:
        if not stage.name.startswith("encoder"):
            continue  # decoder maps are sums with their skips, looked at below
        upright = stage.frame.inverse(seen[stage.name])[0, :2]
        expected = torch.nn.functional.avg_pool2d(image[:, :2], stage.stride)[0]
        assert_close(upright, expected)
    for stage in blocks:
        if stage.name.startswith("decoder.0"):
            expected = torch.nn.functional.avg_pool2d(image[:, :2], 4)[0]
            assert_close(stage.frame.inverse(seen[stage.name])[0, :2], expected)
        elif stage.name.startswith("decoder"):
            upright = stage.frame.inverse(seen[stage.name])[0, :2]
            assert (upright[0].diff(dim=0) > 0).all()  # rows still run down
            assert (upright[1].diff(dim=1) > 0).all()  # and columns to the right


def test_each_frame_occurs_in_twelve_of_the_forty_eight_blocks():
    frames = [str(stage.frame) for stage in build("evssm").stages if stage.name.endswith(".mixer")]
    assert {frame: frames.count(frame) for frame in set(frames)} == dict.fromkeys(
        ("upright", "transposed", "half turn", "anti-transposed"), 12
    )


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("size", [(16, 16), (17, 19), (31, 70), (53, 16)])
def test_small_windows_take_any_size_and_any_batch(name, size):
    net, x = build(name, local=(16, 8, 4)).double(), torch.rand(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        y = net(x)
        assert y.shape == x.shape
        assert y.isfinite().all()
        assert_close(y, torch.cat([net(image[None]) for image in x]))


def test_windows_that_cover_the_map_change_nothing_and_smaller_ones_do():
    x = torch.rand(1, 3, 64, 96, dtype=torch.float64)
    whole, wide, narrow = (build("evssm-compact", local=local).double() for local in (False, (96, 48, 24), (32, 16, 8)))
    wide.load_state_dict(whole.state_dict())
    narrow.load_state_dict(whole.state_dict())
    with torch.no_grad():
        assert_close(wide(x), whole(x))
        assert (narrow(x) - whole(x)).abs().max() > 1e-6


def test_forward_keeps_nothing_on_the_network():
    net = build("evssm-compact")
    before = {name: set(vars(module)) for name, module in net.named_modules()}
    net(torch.rand(1, 3, 17, 32))
    assert {name: set(vars(module)) for name, module in net.named_modules()} == before


def test_depths_that_are_neither_three_nor_six_are_refused():
    with pytest.raises(ValueError, match="three numbers"):
        EVSSM(depths=(1, 2))


def test_an_even_stage_count_without_turns_ends_upright():
    assert all(stage.frame == IDENTITY for stage in build("evssm-no-geot").stages)
