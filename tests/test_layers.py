import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from evssm.layers import LayerNorm2d, Resize, RMSNorm2d, gated_gelu, pad_to_multiple, pointwise, views_and_picture


@pytest.mark.parametrize("mode", ["reflect", "constant", "replicate"])
@pytest.mark.parametrize("size", [(16, 16), (17, 33), (3, 32), (2, 5)])
def test_padding_agrees_with_numpy_even_beyond_the_map(size, mode):
    x = torch.rand(2, 3, *size)
    missing = [(0, 0), (0, 0), *((0, -side % 32) for side in size)]
    wanted = np.pad(x.numpy(), missing, mode="edge" if mode == "replicate" else mode)
    assert_close(pad_to_multiple(x, 32, mode).numpy(), wanted)


def test_a_single_row_cannot_be_reflected():
    with pytest.raises(ValueError, match="two pixels"):
        pad_to_multiple(torch.rand(1, 1, 1, 8), 8)


def test_two_views_have_their_mean_for_a_picture_unless_it_is_given():
    left, right, picture = torch.rand(3, 2, 3, 4, 5)
    assert views_and_picture(picture) == ((), picture)
    views, mean = views_and_picture(torch.cat((left, right), 1))
    assert_close((*views, mean), (left, right, (left + right) / 2))
    assert_close(views_and_picture(torch.cat((left, right, picture), 1))[1], picture)
    with pytest.raises(ValueError, match="not 5"):
        views_and_picture(torch.rand(1, 5, 4, 4))


@pytest.mark.parametrize("bias", [True, False])
def test_a_pointwise_product_is_the_convolution(bias):
    conv, x = nn.Conv2d(5, 7, 1, bias=bias).double(), torch.randn(2, 5, 3, 4, dtype=torch.float64)
    assert_close(pointwise(x, conv), conv(x))


def test_rms_norm_leaves_the_mean_in():
    norm, x = RMSNorm2d(6).double(), torch.randn(2, 6, 3, 4, dtype=torch.float64) + 3
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    expected = x / (x.square().mean(dim=1, keepdim=True) + 1e-6).sqrt()
    assert_close(norm(x), expected * norm.weight[:, None, None] + norm.bias[:, None, None])
    assert norm(x).mean().abs() > 1e-3


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_gradients_of_rms_norm_and_gated_gelu_are_the_finite_differences(channels_last):
    norm = RMSNorm2d(4).double()
    x = torch.randn(2, 4, 2, 3, dtype=torch.float64) + 0.5
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    weight, bias = (torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    x.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, w, b: torch.func.functional_call(norm, {"weight": w, "bias": b}, (x,)), (x, weight, bias)
    )
    gate, value = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(gated_gelu, (gate, value))
    assert_close(gated_gelu(gate, value), F.gelu(gate) * value)


def test_rms_norm_with_frozen_weights_still_passes_the_gradient_on():
    norm, x = (
        RMSNorm2d(4).double().requires_grad_(False),
        torch.randn(1, 4, 2, 2, dtype=torch.float64, requires_grad=True),
    )
    scale = (x.square().mean(dim=1, keepdim=True) + 1e-6).rsqrt()
    (ours,) = torch.autograd.grad(norm(x).sin().sum(), x)
    (plain,) = torch.autograd.grad((x * scale).sin().sum(), x)
    assert_close(ours, plain)


def test_layer_norm_gives_each_pixel_mean_zero_and_variance_one():
    y = LayerNorm2d(64, eps=0.0).double()(3 * torch.randn(2, 64, 3, 4, dtype=torch.float64) + 5)
    assert_close(y.mean(dim=1), torch.zeros(2, 3, 4, dtype=torch.float64))
    assert_close(y.var(dim=1, correction=0), torch.ones(2, 3, 4, dtype=torch.float64))


def test_halving_an_even_map_takes_the_mean_of_four_pixels():
    resize, x = Resize(2, 2, 0.5).double(), torch.rand(1, 2, 6, 10, dtype=torch.float64)
    nn.init.dirac_(resize.conv.weight)
    assert_close(resize(x), F.avg_pool2d(x, 2))
