"""SRN: no official numbers are at hand, so counts from its fact sheet, a pass written out, the recurrence, fields."""

import numpy as np
import pytest
import torch
from layer_fields import back, columns_of, convolution, nothing_cut_off, subsampled, transposed
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from analysis import cost
from evssm.models.srn import NAMING, SRN, ConvLSTM, infer
from evssm.naming import official_keys
from evssm.tf_layers import doubled


def small(**arguments):
    """A float64 network of random weights."""
    net = SRN(width=2, **arguments).double().eval().requires_grad_(False)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    return net


def images(b=1, h=16, w=32):
    return torch.rand(b, 3, h, w, dtype=torch.float64)


@pytest.mark.parametrize(
    ("arguments", "parameters", "gmacs"),
    [
        ({}, 6_881_251, 83.5),
        ({"separate": True}, 6_876_449, 249.3),
        ({"separate": True, "lstm": True}, 8_056_609, 268.3),
    ],
    ids=str,
)
def test_parameters_and_multiply_adds_are_the_published_networks(arguments, parameters, gmacs):
    with torch.device("meta"):
        found = cost(SRN(**arguments), 256)
    assert found.parameters == parameters
    assert found.conv_linear_macs / 1e9 == pytest.approx(gmacs, abs=0.05)


def variables(net):
    state = net.state_dict()
    return {name: state[ours] for name, ours in official_keys(net, NAMING).items()}


def pass_by_name(weights, blurred, passed_on, state=None):
    """One pass as the fact sheet tells it, from variables by name."""

    def conv(name, y, padding=(2, 2, 2, 2), stride=1):
        scope = f"g_net/{name}"
        return F.conv2d(F.pad(y, padding), weights[f"{scope}/weights"], weights[f"{scope}/biases"], stride=stride)

    def blocks(*names, y):
        for name in names:
            y = y + conv(f"{name}/conv2", conv(f"{name}/conv1", y).relu())
        return y

    def enlarged(name, y):
        scope = f"g_net/{name}"
        weight, bias = weights[f"{scope}/weights"], weights[f"{scope}/biases"]
        return F.conv_transpose2d(y, weight, bias, stride=2, padding=1).relu()

    e1 = blocks("enc1_2", "enc1_3", "enc1_4", y=conv("enc1_1", torch.cat((blurred, passed_on), 1)).relu())
    e2 = blocks("enc2_2", "enc2_3", "enc2_4", y=conv("enc2_1", e1, (1, 2, 1, 2), 2).relu())
    e3 = blocks("enc3_2", "enc3_3", "enc3_4", y=conv("enc3_1", e2, (1, 2, 1, 2), 2).relu())
    if "g_net/convLSTM/LSTM_conv/weights" in weights:
        c, hidden = (torch.zeros_like(e3), torch.zeros_like(e3)) if state is None else state
        i, j, f, o = conv("convLSTM/LSTM_conv", torch.cat((e3, hidden), 1), (1, 1, 1, 1)).split(e3.shape[1], 1)
        c = c * torch.sigmoid(f + 1) + torch.sigmoid(i) * torch.tanh(j)
        e3 = torch.tanh(c) * torch.sigmoid(o)
        state = c, e3
    d = enlarged("dec2_4", blocks("dec3_3", "dec3_2", "dec3_1", y=e3)) + e2
    d = enlarged("dec1_4", blocks("dec2_3", "dec2_2", "dec2_1", y=d)) + e1
    return conv("dec1_0", blocks("dec1_3", "dec1_2", "dec1_1", y=d)), state


@pytest.mark.parametrize("arguments", [{}, {"lstm": True}, {"lstm": True, "separate": True}], ids=str)
def test_the_three_passes_are_what_they_are_written_out_with_official_names(arguments):
    net, x = small(**arguments), images(2)
    weights = variables(net)
    planes = x.reshape(-1, 1, 16, 32) if "separate" in arguments else x
    quarter, state = pass_by_name(weights, planes[..., ::4, ::4], planes[..., ::4, ::4])
    half, state = pass_by_name(weights, planes[..., ::2, ::2], doubled(quarter), state and [*map(doubled, state)])
    full, _ = pass_by_name(weights, planes, doubled(half), state and [*map(doubled, state)])
    for found, wanted in zip(net.pyramid(x), (quarter, half, full), strict=True):
        assert_close(found, wanted.reshape(2, 3, *wanted.shape[-2:]))


def test_the_names_are_the_official_ones_and_tell_the_arguments():
    net = small(lstm=True, separate=True)
    weights = variables(net)
    kinds = {name.rsplit("/", 1)[1] for name in weights}
    assert kinds == {"weights", "biases"}
    assert len(weights) == 2 * (42 + 1)
    assert infer({name: tuple(w.shape) for name, w in weights.items()}) == {"width": 2, "separate": True, "lstm": True}
    colors = {name: tuple(w.shape) for name, w in variables(small()).items()}
    assert infer(colors) == {"width": 2, "separate": False, "lstm": False}


def test_colors_restored_one_by_one_are_grey_images():
    net, x = small(lstm=True, separate=True), images(2, 19, 23)
    for channel in range(3):
        grey = x[:, [channel]].expand(-1, 3, -1, -1)
        assert_close(net(grey)[:, [channel]], net(x)[:, [channel]])


def test_the_recurrence_forgets_and_remembers_as_its_gates_say():
    """With silent weights the gates are constants: f + 1, i, o from the biases, j what is written."""
    cell = ConvLSTM(1).double().requires_grad_(False)
    nn.init.zeros_(cell.conv.weight)
    cell.conv.bias[:] = torch.tensor([0.3, -0.7, 0.4, 1.1])  # i, j, f, o
    i, j, f, o = (float(v) for v in cell.conv.bias)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    x, wanted, state = torch.zeros(1, 1, 2, 2, dtype=torch.float64), 0.0, None
    for _ in range(3):
        hidden, state = cell(x, state)
        wanted = wanted * sigmoid(f + 1) + sigmoid(i) * np.tanh(j)
        assert_close(state[0], torch.full_like(x, wanted))
        assert_close(hidden, torch.full_like(x, np.tanh(wanted) * sigmoid(o)))
        assert hidden is state[1]


@pytest.mark.parametrize(("h", "w"), [(16, 16), (17, 30), (22, 45)])
def test_any_size_is_the_image_continued_to_its_right_and_below(h, w):
    net, image = small(), images(1, h, w)
    continued = np.pad(image.numpy(), ((0, 0), (0, 0), (0, -h % 16), (0, -w % 16)), mode="edge")
    whole = net.pyramid(torch.from_numpy(continued))
    for step, found, wanted in zip((4, 2, 1), net.pyramid(image), whole, strict=True):
        assert found.shape == (1, 3, -(-h // step), -(-w // step))
        assert_close(found, wanted[..., : found.shape[-2], : found.shape[-1]])
    assert torch.equal(net(image), net.pyramid(image)[-1])


def test_an_unknown_time_to_stop_is_refused():
    with pytest.raises(ValueError, match=r"not 'sometimes'"):
        SRN(stop_gradient="sometimes")


# Gradients and fields


@pytest.mark.parametrize(
    ("when", "training", "stops"),
    [
        ("training", True, True),
        ("training", False, False),
        ("always", False, True),
        ("never", True, False),
    ],
)
def test_gradients_pass_between_scales_unless_stopped(when, training, stops):
    net, passed = small(stop_gradient=when).train(training), []
    net.passes[0].output.register_forward_hook(lambda _m, _x, y: passed.append(y))
    x = images().requires_grad_()
    y = net(x)
    (through,) = torch.autograd.grad(y.sum(), passed[0], allow_unused=True)
    assert (through is None) == stops
    assert torch.equal(y, net.eval()(x))  # values do not depend on it


def test_with_a_state_gradients_reach_coarser_passes_through_it_alone():
    net, seen = small(lstm=True, stop_gradient="always"), []
    net.passes[0].cell.register_forward_hook(lambda _m, _x, y: seen.append(y))
    (through,) = torch.autograd.grad(net(images().requires_grad_()).sum(), seen[0], allow_unused=True)
    assert through is not None


FIVE, HALVED, RISE = convolution(5), convolution(5, stride=2, before=1), transposed(4)
BLOCKS = (FIVE,) * 6


def one_pass(asked):
    """The columns of a pass's images that columns of its output read."""
    fine = back(asked, *BLOCKS, FIVE)
    middle = back(fine, *BLOCKS, RISE)
    coarse = back(middle, *BLOCKS, RISE)
    return (
        back(fine, FIVE, *BLOCKS)
        | back(middle, FIVE, *BLOCKS, HALVED, *BLOCKS)
        | back(coarse, FIVE, *BLOCKS, HALVED, *BLOCKS, HALVED, *BLOCKS)
    )


def doubling(asked):
    """Even columns are copies, odd ones lie between two."""
    return frozenset(c for o in asked for c in (o // 2, (o + 1) // 2))


def all_passes(asked):
    """The columns of the whole image: of each pass's blurred image, and through what was passed on of the coarser."""
    full = one_pass(asked)
    half = one_pass(doubling(full))
    quarter = one_pass(doubling(half))
    return full | back(half, subsampled(2)) | back(quarter, subsampled(4))


def test_a_pass_reads_365_pixels_and_all_three_together_2529():
    assert [len(one_pass([column])) for column in (2000, 2001, 2002, 2003)] == [365, 361, 361, 365]
    read = all_passes([2000])
    assert max(read) - min(read) + 1 == 2529
    odd = {column for column in read if column % 2}
    assert odd == {column for column in one_pass([2000]) if column % 2}  # coarser passes see every second one


def test_a_pass_sees_exactly_what_its_layers_read():
    net, column = nothing_cut_off(SRN(width=1)), 210
    blurred, passed_on = images(2, 16, 416).requires_grad_().split(1)
    y, _ = net.one_pass(blurred, passed_on, None, net.passes[0])
    for image in torch.autograd.grad(y[..., 8, column].sum(), (blurred, passed_on)):
        assert columns_of(image) == one_pass([column])


@pytest.mark.parametrize("stop_gradient", ["always", "never"])
def test_with_the_stop_a_pixel_seems_to_see_its_finest_pass_only(stop_gradient):
    net, column = nothing_cut_off(SRN(width=1, stop_gradient=stop_gradient)), 1600
    x = images(1, 16, 3200).requires_grad_()
    (gradient,) = torch.autograd.grad(net(x)[..., 8, column].sum(), x)
    assert columns_of(gradient) == (one_pass if stop_gradient == "always" else all_passes)([column])
