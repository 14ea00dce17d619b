"""KPAC: no official numbers are at hand, so counts from its fact sheet, the list of weights written out, and laws."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from analysis import cost
from evssm.models.kpac import KPAC, NAMING, Dilated, SharedKernel, infer
from evssm.naming import official_keys


def small(**arguments):
    """A float64 network of random weights."""
    net = KPAC(width=6, **arguments).double().eval().requires_grad_(False)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    return net


@pytest.mark.parametrize(
    ("arguments", "arrays", "parameters", "gmacs"),
    [
        ({"levels": 2}, 58, 1_578_277, 13.63),
        ({"levels": 3}, 66, 2_057_893, 8.04),
        ({"levels": 3, "dual_pixel": True}, 66, 2_061_493, 8.27),
    ],
    ids=str,
)
def test_counts_are_the_published_networks(arguments, arrays, parameters, gmacs):
    with torch.device("meta"):
        net = KPAC(**arguments)
        found = cost(net, 256, channels=6 if "dual_pixel" in arguments else 3)
    keys = official_keys(net, NAMING)
    assert list(keys) == [f"arr_{i}" for i in range(arrays)]
    assert found.parameters == parameters
    assert found.conv_linear_macs / 1e9 == pytest.approx(gmacs, abs=0.005)
    shapes = {key: tuple(net.state_dict()[ours].shape) for key, ours in keys.items()}
    assert infer(shapes) == {"width": 48, "dual_pixel": False, **arguments}


def from_the_list(weights, x, levels):
    """The network as its fact sheet tells it, taking one array of the list after the other."""
    left = iter(weights)

    def conv(y, *, stride=1, dilation=1, bias=True):
        weight = next(left)
        reach = (weight.shape[-1] - 1) * dilation + 1 - stride
        padded = F.pad(y, (reach // 2, reach - reach // 2) * 2)
        return F.conv2d(padded, weight, next(left) if bias else None, stride=stride, dilation=dilation)

    def lrelu(y):
        return torch.where(y > 0, y, 0.2 * y)

    def block(y):
        kernel = next(left)
        dilated = [lrelu(F.conv2d(F.pad(y, (2 * r,) * 4), kernel, dilation=r)) for r in (1, 2, 3, 4, 5)]
        a = y
        for _ in range(4):
            a = lrelu(conv(a, dilation=2))
        a = conv(a).sigmoid()
        gate = conv(lrelu(conv(y.mean((2, 3), keepdim=True)))).sigmoid()
        return lrelu(conv(torch.cat([dilated[i] * a[:, [i]] * gate for i in range(5)], 1)))

    def enlarged(y):
        return lrelu(F.conv_transpose2d(y, next(left), next(left), stride=2, padding=1))

    y = x * 2 - 1
    f = [lrelu(conv(lrelu(conv(y))))]
    for _ in range(levels):
        f.append(lrelu(conv(lrelu(conv(f[-1], stride=2)))))
    n0 = f.pop()
    n1 = block(n0)
    n = lrelu(conv(lrelu(conv(torch.cat((n0, n1, block(n1)), 1)))))
    for _ in range(levels - 1):
        n = lrelu(conv(torch.cat((enlarged(n), f.pop()), 1)))
    picture = y if y.shape[1] == 3 else (y[:, :3] + y[:, 3:]) / 2
    y = conv(torch.cat((enlarged(n), f.pop()), 1)) + picture
    assert next(left, None) is None
    return (y + 1) / 2


@pytest.mark.parametrize("arguments", [{"levels": 2}, {"levels": 3}, {"levels": 3, "dual_pixel": True}], ids=str)
def test_the_network_is_what_it_is_written_out_from_the_list_of_weights(arguments):
    net, x = small(**arguments), torch.rand(2, 6 if "dual_pixel" in arguments else 3, 24, 32, dtype=torch.float64)
    weights = [net.state_dict()[ours] for ours in official_keys(net, NAMING).values()]
    assert_close(net(x), from_the_list(weights, x, arguments["levels"]))


def test_all_dilations_share_the_kernel():
    """One pixel answers with the kernel, turned round and spread out."""
    dilated = Dilated(1, 1).double().requires_grad_(False)
    dilated.conv.weight[:] = torch.arange(1.0, 26).reshape(1, 1, 5, 5)
    x = torch.zeros(1, 1, 25, 25, dtype=torch.float64)
    x[..., 12, 12] = 1
    for step, answer in enumerate(dilated(x)[0], 1):
        spread = answer[12 - 2 * step : 13 + 2 * step : step, 12 - 2 * step : 13 + 2 * step : step]
        assert_close(spread, dilated.conv.weight[0, 0].flip(0, 1))
        assert answer.count_nonzero() == 25


def test_attention_decides_for_each_pixel_and_the_gate_for_each_channel():
    block, x = SharedKernel(12, 6).double().eval().requires_grad_(False), torch.rand(1, 12, 9, 10, dtype=torch.float64)
    mixed = []
    block.mix.register_forward_hook(lambda _m, inputs, _y: mixed.append(inputs[0]))
    block(x)
    weights, gates = block.attention(x), block.gate(x)
    assert weights.shape == (1, 5, 9, 10)
    assert gates.shape == (1, 6, 1, 1)
    for i in range(5):
        assert_close(mixed[0][:, 6 * i : 6 * i + 6], block.dilated(x)[:, 6 * i : 6 * i + 6] * weights[:, [i]] * gates)


def test_only_the_gates_make_the_network_global():
    net, x = small(levels=2), torch.rand(1, 3, 16, 320, dtype=torch.float64)
    other = x.clone()
    other[..., :8] = torch.rand(1, 3, 16, 8, dtype=torch.float64)
    assert not torch.equal(net(x)[..., -1], net(other)[..., -1])
    for block in net.blocks:
        block.gate.register_forward_hook(lambda _m, _x, y: torch.full_like(y, 0.5))
    assert torch.equal(net(x)[..., -1], net(other)[..., -1])


@pytest.mark.parametrize("levels", [2, 3])
@pytest.mark.parametrize(("h", "w"), [(16, 16), (17, 30), (22, 45)])
def test_any_size_is_the_image_mirrored_to_its_right_and_below(levels, h, w):
    net, image = small(levels=levels), torch.rand(1, 3, h, w, dtype=torch.float64)
    mirrored = np.pad(image.numpy(), ((0, 0), (0, 0), (0, -h % 2**levels), (0, -w % 2**levels)), mode="reflect")
    assert_close(net(image), net(torch.from_numpy(mirrored))[..., :h, :w])


def test_with_the_picture_given_it_is_what_the_output_is_added_to():
    net = small(dual_pixel=True)
    left, right, picture = torch.rand(3, 1, 3, 16, 24, dtype=torch.float64)
    views = torch.cat((left, right), 1)
    assert_close(net(torch.cat((views, picture), 1)) - picture, net(views) - (left + right) / 2)


def test_other_levels_are_refused():
    with pytest.raises(ValueError, match="2 or 3 times, not 4"):
        KPAC(levels=4)
