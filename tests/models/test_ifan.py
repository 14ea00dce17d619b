"""IFAN against the official network's numbers, its filters against a slower second derivation, and laws.

`golden/ifan.npz` holds, for runs of the official code (`codeslake/IFAN`, 66bf136) before it cuts off its output, about
48 numbers of each array: of the float64 outputs and receptive field, strided by 4, of the warped small image, and of
the float32 maps and gradient, strided as below. Random filters blow up over 34 passes, so those of the goldens are
near the identity (`near_identity`).
"""

from hashlib import sha256
from zlib import crc32

import numpy as np
import pytest
import torch
from golden_numbers import Golden, official_shapes, with_ruled_weights
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from weight_rule import ruled_image

from analysis import cost
from evssm.hooks import record
from evssm.models import build
from evssm.models.ifan import IFAN, NAMING, TAPS, FilterChain, ResidualSteps, infer, warped
from evssm.weights import from_official, to_official

GOLDEN = Golden("ifan.npz")
MAPS = {  # official name, our module, channel stride, pixel stride
    "conv4_3": ("encoder.3", 8, 1),
    "DME": ("disparity", 1, 1),
    "conv4_4": ("join", 8, 1),
    "F": ("filters", 128, 1),
    "conv_res": ("refine", 8, 1),
    "upconv2_2": ("up.1", 8, 2),
}


def near_identity():
    """The last layer of the filters in the goldens: a tenth of the usual weights, and 1 in the middle tap's bias."""

    def drawn(key, shape):
        return 0.1 * np.random.RandomState(crc32(key.encode()) & 0x7FFFFFFF).standard_normal(shape)

    j = np.arange(15232)
    weight = drawn("F.3.weight", (15232, 128, 1, 1)) / np.sqrt(128)
    bias = drawn("F.3.bias", (15232,)) + ((j < 13056) & (j % 3 == 1))
    return {"F.3.weight": torch.from_numpy(weight).float(), "F.3.bias": torch.from_numpy(bias).float()}


@pytest.fixture(scope="module")
def released():
    return with_ruled_weights(IFAN(), NAMING, near_identity())


def small(**arguments):
    """A float64 network of random weights."""
    return IFAN(**{"width": 2, "iterations": 3, **arguments}).double().eval().requires_grad_(False)


def test_output_maps_and_receptive_field_are_the_released_networks(released):
    image = ruled_image(70, 1, 3, 64, 64).double().requires_grad_()
    with record(released, *(ours for ours, *_ in MAPS.values())) as maps:
        y = released(image)
    (gradient,) = torch.autograd.grad(y[0, :, 32, 32].sum(), image)
    assert GOLDEN.distance(y[..., ::4, ::4], "ifan_64x64/out_f64") < 1e-10
    assert GOLDEN.distance(gradient[0].abs().sum(0)[::4, ::4], "ifan_64x64/erf_f64") < 1e-10
    assert GOLDEN.distance(gradient[0, :, ::2, ::2], "ifan_64x64/grad") < 1e-4
    for official, (ours, channels, pixels) in MAPS.items():
        sampled = maps[ours].tensor[:, ::channels, ::pixels, ::pixels]
        assert GOLDEN.distance(sampled, f"ifan_64x64/mid:{official}") < 1e-5, official
    eighth = F.interpolate(image.detach(), (8, 8), mode="area")
    shifted = warped(eighth, maps["disparity"].tensor)
    assert GOLDEN.distance(shifted[..., ::4, ::4], "ifan_64x64/warp_f64") < 1e-10
    assert GOLDEN.distance(warped(eighth, -maps["disparity"].tensor)[..., ::4, ::4], "ifan_64x64/warp_f64") > 0.01


def test_the_second_kernel_along_the_rows_is_the_papers_form(released):
    net = IFAN(second_kernel=True).double().eval()
    net.load_state_dict(released.state_dict())
    with torch.no_grad():
        y = net(ruled_image(70, 1, 3, 64, 64).double())
        assert GOLDEN.distance(y[..., ::4, ::4], "ifan_corrected_64x64/out_f64") < 1e-10
        y = net.float()(ruled_image(70, 1, 3, 64, 64))
        assert GOLDEN.distance(y[..., ::4, ::4], "ifan_corrected_64x64/out_f64") < 1e-5


@pytest.mark.parametrize(
    ("arguments", "parameters"),
    [
        ({}, 10_476_996),
        ({"dual_pixel": True}, 10_477_860),
        ({"iterations": 8}, 9_436_740),
        ({"iterations": 26}, 11_517_252),
        ({"iterations": 35}, 12_557_508),
        ({"iterations": 44}, 13_597_764),
    ],
    ids=str,
)
def test_it_has_the_parameters_of_the_official_network(arguments, parameters):
    with torch.device("meta"):
        net = IFAN(**arguments)
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert infer(official_shapes(net, NAMING)) == {"width": 32, "iterations": 17, "dual_pixel": False, **arguments}


def test_multiply_adds_are_the_official_networks():
    with torch.device("meta"):
        assert cost(IFAN(), 256).conv_linear_macs / 1e9 == pytest.approx(25.71, abs=0.005)


def test_the_official_state_dict_has_our_tensors_in_its_order():
    """The digest is of the contract's keys and shapes, a line `key:[sizes]` each."""
    with torch.device("meta"):
        shapes = official_shapes(IFAN(), NAMING)
    lines = "\n".join(f"{key}:{list(shape)}" for key, shape in shapes.items())
    assert len(shapes) == 158
    assert sha256(lines.encode()).hexdigest() == "a427e016ed06a016d70eb3347bb9d5734e2b0629ab4162e606d9c40f6e1e0d1d"


def test_released_files_carry_two_prefixes_and_may_hold_the_reblurring_network():
    net = build("ifan-compact")
    state = to_official(net)
    saved = {f"module.Network.{key}": value for key, value in state.items()}
    for entries in (saved, {**saved, "module.reblurNet.conv.0.weight": torch.ones(3)}):
        again = from_official("ifan", entries)
        assert all(torch.equal(value, to_official(again)[key]) for key, value in state.items())
    with pytest.raises(ValueError, match="1 unexpected: extra;"):
        from_official("ifan", {**saved, "module.Network.extra": torch.ones(3)})


# --- filters


def written_out(x, filters, chain, second_kernel):
    """One pixel, channel and tap after the other."""
    b, c, h, w = x.shape
    for n in range(chain):
        for axis in (0, 1):
            y = torch.zeros_like(x)
            for image, channel, i, j in np.ndindex(b, c, h, w):
                for tap in range(3):
                    r, q = (i + tap - 1, j) if axis == 0 else (i, j + tap - 1)
                    r, q = min(max(r, 0), h - 1), min(max(q, 0), w - 1)
                    kernel = axis if second_kernel else 0
                    weight = filters[image, n * 6 * c + kernel * 3 * c + 3 * channel + tap, i, j]
                    y[image, channel, i, j] += weight * x[image, channel, r, q]
            x = y
        x = F.leaky_relu(x + filters[:, chain * 6 * c + n * c : chain * 6 * c + (n + 1) * c], 0.1)
    return x


@pytest.mark.parametrize("second_kernel", [False, True])
def test_the_chain_of_filters_is_what_it_is_written_out(second_kernel):
    x, filters = torch.randn(2, 2, 3, 4, dtype=torch.float64), torch.randn(2, 2 * 7 * 2, 3, 4, dtype=torch.float64)
    assert_close(FilterChain(second_kernel)(x, filters), written_out(x, filters, 2, second_kernel))


def test_the_second_kernel_is_never_read_as_published():
    x, filters = torch.randn(1, 2, 4, 5), torch.randn(1, 7 * 2, 4, 5)
    changed = filters.clone()
    changed[:, 2 * TAPS : 4 * TAPS] += 1  # the second kernels of the two channels
    assert torch.equal(FilterChain(False)(x, filters), FilterChain(False)(x, changed))
    assert not torch.allclose(FilterChain(True)(x, filters), FilterChain(True)(x, changed))


def test_residual_steps_add_what_came_in_once_more_only_if_there_are_several():
    x = torch.rand(1, 2, 4, 4)
    for steps, times in ((1, 1), (2, 2), (3, 2)):
        block = ResidualSteps(2, steps)
        for parameter in block.parameters():
            nn.init.zeros_(parameter)
        assert_close(block(x), times * x)


def test_the_residual_image_passes_the_leaky_relu():
    net, image = small(), torch.rand(1, 3, 16, 16, dtype=torch.float64)
    nn.init.zeros_(net.output[0].weight)
    net.output[0].bias[:] = torch.tensor([1.0, -1.0, 0.0])
    shift = torch.tensor([1.0, -0.1, 0.0], dtype=torch.float64).reshape(3, 1, 1)
    assert_close(net(image), image + shift)


# --- views


def test_a_disparity_of_a_whole_pixel_looks_one_column_to_the_right():
    x = torch.arange(24.0, dtype=torch.float64).reshape(1, 1, 4, 6)
    right = F.pad(x[..., 1:], (0, 1))
    assert_close(warped(x, torch.ones(1, 1, 4, 6, dtype=torch.float64)), right)
    half = warped(x, torch.full((1, 1, 4, 6), 0.5, dtype=torch.float64))
    assert_close(half, (x + right) / 2)


def test_the_views_go_in_right_then_left_and_the_picture_is_their_mean_or_given():
    net, seen, refined = small(dual_pixel=True), [], []
    left, right, picture = torch.rand(3, 1, 3, 16, 24, dtype=torch.float64)
    net.blur_encoder.register_forward_hook(lambda _m, x, _y: seen.append(x[0]))
    net.encoder[0].register_forward_hook(lambda _m, x, _y: refined.append(x[0]))
    nn.init.zeros_(net.output[0].weight)
    assert_close(net(torch.cat((left, right), 1)), (left + right) / 2)
    assert_close(net(torch.cat((left, right, picture), 1)), picture)
    for views in seen:
        assert torch.equal(views, torch.cat((right, left), 1))
    assert_close(torch.cat(refined), torch.cat(((left + right) / 2, picture)))


@pytest.mark.parametrize(("h", "w"), [(16, 16), (17, 30), (22, 45)])
def test_any_size_is_the_image_mirrored_to_its_right_and_below(h, w):
    net, image = small(), torch.rand(1, 3, h, w, dtype=torch.float64)
    mirrored = np.pad(image.numpy(), ((0, 0), (0, 0), (0, -h % 8), (0, -w % 8)), mode="reflect")
    assert_close(net(image), net(torch.from_numpy(mirrored))[..., :h, :w])
