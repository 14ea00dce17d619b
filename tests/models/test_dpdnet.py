"""DPDNet: no official numbers are at hand, so counts from its fact sheet, its layers written out, and laws."""

import numpy as np
import pytest
import torch
from layer_fields import back, columns_of, convolution, nothing_cut_off, pooled, repeated
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from analysis import cost
from evssm.models.dpdnet import NAMING, DPDNet, infer
from evssm.naming import official_keys


def small(**arguments):
    """A float64 network of random weights."""
    net = DPDNet(width=2, **arguments).double().eval().requires_grad_(False)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    return net


@pytest.mark.parametrize(("dual_pixel", "parameters", "gmacs"), [(True, 31_035_151, 54.83), (False, 31_033_423, 54.72)])
def test_parameters_and_multiply_adds_are_the_published_networks(dual_pixel, parameters, gmacs):
    with torch.device("meta"):
        found = cost(DPDNet(dual_pixel=dual_pixel), 256, channels=6 if dual_pixel else 3)
    assert found.parameters == parameters
    assert found.conv_linear_macs / 1e9 == pytest.approx(gmacs, abs=0.005)


def by_number(net, x):
    """The network as its fact sheet tells it, from weights by their number in Keras."""
    state, keys = net.state_dict(), official_keys(net, NAMING)

    def conv(number, y, padding=(1, 1, 1, 1)):
        weight, bias = (state[keys[f"conv2d_{number}/{kind}"]] for kind in ("kernel", "bias"))
        return F.conv2d(F.pad(y, padding), weight, bias)

    def pair(number, y):
        return conv(number + 1, conv(number, y).relu()).relu()

    y = torch.cat([x[:, [2, 1, 0]], x[:, [5, 4, 3]]], 1) if x.shape[1] == 6 else x[:, [2, 1, 0]]
    skips = []
    for number in (1, 3, 5, 7):
        skips.append(pair(number, y))
        y = F.max_pool2d(skips[-1], 2)
    y = pair(9, y)
    for number in (11, 14, 17, 20):
        up = conv(number, y.repeat_interleave(2, -1).repeat_interleave(2, -2), (0, 1, 0, 1)).relu()
        y = pair(number + 1, torch.cat((skips.pop(), up), 1))
    return conv(24, conv(23, y).relu(), (0, 0, 0, 0)).sigmoid()[:, [2, 1, 0]]


@pytest.mark.parametrize("dual_pixel", [False, True])
def test_the_network_is_what_it_is_written_out_with_keras_numbers(dual_pixel):
    net, x = small(dual_pixel=dual_pixel), torch.rand(2, 6 if dual_pixel else 3, 32, 48, dtype=torch.float64)
    assert_close(net(x), by_number(net, x))


def test_the_variables_are_numbered_and_tell_the_arguments():
    net = small(dual_pixel=True)
    names = list(official_keys(net, NAMING))
    assert names == [f"conv2d_{number}/{kind}" for number in range(1, 25) for kind in ("kernel", "bias")]
    shapes = {name: tuple(net.state_dict()[ours].shape) for name, ours in official_keys(net, NAMING).items()}
    assert infer(shapes) == {"width": 2, "dual_pixel": True}


def test_dropout_is_for_training_and_falls_on_the_two_coarsest_maps():
    net, seen = small(dropout=0.5).train(), {}
    for i, level in enumerate(net.encoder):
        level.register_forward_hook(lambda _m, _x, y, i=i: seen.update({i: y}))
    for level in net.encoder:
        nn.init.zeros_(level[2].weight)
        nn.init.ones_(level[2].bias)  # ones everywhere: nothing but dropout makes zeros
    net(torch.rand(1, 3, 32, 32, dtype=torch.float64))
    assert [bool((seen[i] == 0).any()) for i in range(5)] == [False, False, False, True, True]
    image = torch.rand(1, 3, 16, 20, dtype=torch.float64)
    for still in (small(dropout=0.5), small(dropout=0.0).train()):
        assert torch.equal(still(image), still(image))


@pytest.mark.parametrize(("h", "w"), [(16, 16), (17, 30), (22, 45)])
def test_any_size_is_the_image_mirrored_to_its_right_and_below(h, w):
    net, image = small(), torch.rand(1, 3, h, w, dtype=torch.float64)
    mirrored = np.pad(image.numpy(), ((0, 0), (0, 0), (0, -h % 16), (0, -w % 16)), mode="reflect")
    assert_close(net(image), net(torch.from_numpy(mirrored))[..., :h, :w])


# The field


def encoder(level, asked):
    asked = back(asked, convolution(3), convolution(3))
    return encoder(level - 1, pooled(asked)) if level else asked


def decoder(level, asked):
    if level == 4:
        return encoder(4, asked)
    asked = back(asked, convolution(3), convolution(3))
    return encoder(level, asked) | decoder(level + 1, back(asked, repeated, convolution(2, before=0)))


def test_the_layers_read_220_pixels_or_204_next_to_a_border_of_the_coarsest_cells():
    widths = [len(decoder(0, back([column], convolution(3)))) for column in range(400, 416)]
    assert widths == [204, 204, *[220] * 13, 204]


@pytest.mark.parametrize("column", [136, 143])
def test_a_pixel_sees_exactly_what_its_layers_read(column):
    net = nothing_cut_off(DPDNet(width=1))
    image = torch.rand(1, 3, 16, 288, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(net(image)[..., 8, column].sum(), image)
    assert columns_of(gradient) == decoder(0, back([column], convolution(3)))


def test_with_its_own_layers_nothing_outside_the_field_matters():
    net, column = small(), 143
    image, other = torch.rand(2, 1, 3, 16, 288, dtype=torch.float64)
    read = sorted(decoder(0, back([column], convolution(3))))
    other[..., read] = image[..., read]
    assert_close(net(other)[..., column], net(image)[..., column], rtol=0, atol=1e-14)
    assert not torch.allclose(net(other), net(image))
