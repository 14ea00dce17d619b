"""The floor that instance norms put under a receptive field, against its closed form."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from analysis.instance_norms import constant_statistics, norm_row


def jacobian_row(x, query, eps=1e-5):
    """The gradient of one normalised pixel, by torch."""
    x = x.clone().requires_grad_()
    (row,) = torch.autograd.grad(nn.InstanceNorm2d(1, eps=eps)(x[None, None])[0, 0][query], x)
    return row


@pytest.mark.parametrize("eps", [1e-5, 0.3])
def test_the_closed_form_is_the_gradient(eps):
    x = torch.randn(7, 9, dtype=torch.float64)
    for query in ((0, 0), (3, 4), (6, 8)):
        assert_close(norm_row(x, query, eps), jacobian_row(x, query, eps))


def test_brightness_does_not_pass_and_contrast_only_by_eps():
    x, eps = torch.randn(8, 6, dtype=torch.float64), 0.2
    row, variance = norm_row(x, (2, 3), eps), x.var(correction=0)
    y = (x[2, 3] - x.mean()) / (variance + eps).sqrt()
    assert_close(row.sum(), torch.zeros((), dtype=torch.float64), rtol=0, atol=1e-12)
    assert_close((row * x).sum(), y * eps / (variance + eps))


def test_the_floor_falls_as_the_number_of_pixels():
    x = torch.randn(6, 6, dtype=torch.float64)
    tiled = x.repeat(3, 2)
    assert_close(norm_row(tiled, (0, 0))[6:, :6], norm_row(x, (0, 0)).sub(_peak(x)).div(6).repeat(2, 1))


def _peak(x):
    peak = torch.zeros_like(x)
    peak[0, 0] = 1 / (x.var(correction=0) + 1e-5).sqrt()
    return peak


@pytest.mark.parametrize("affine", [False, True])
def test_behind_a_convolution_the_floor_is_the_closed_form_through_it(affine):
    """Off the convolution's field, all that a pixel sees is the floor, spread by the convolution."""
    conv, norm = nn.Conv2d(1, 1, 3, bias=False).double(), nn.InstanceNorm2d(1, affine=affine).double()
    if affine:
        nn.init.normal_(norm.weight)
    net, x = nn.Sequential(conv, norm), torch.rand(1, 1, 12, 14, dtype=torch.float64, requires_grad=True)

    def field():
        return torch.autograd.grad(net(x)[0, 0, 5, 6], x)[0]

    whole = field()
    with constant_statistics(net):
        local = field()
    row = norm_row(conv(x)[0, 0].detach(), (5, 6)) * (norm.weight.detach() if affine else 1)
    assert_close(whole, nn.functional.conv_transpose2d(row[None, None], conv.weight).detach())
    assert local[..., 5:8, 6:9].all()
    assert local.count_nonzero() == 9
    assert_close(field(), whole)  # undone


def test_holding_the_statistics_leaves_outputs_alone_and_is_undone_after_an_exception():
    net, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4), nn.ReLU()), torch.rand(2, 3, 9, 8)
    before = net(x)
    with constant_statistics(net):
        assert_close(net(x), before)
    with pytest.raises(RuntimeError, match="on purpose"), constant_statistics(net):
        raise RuntimeError("on purpose")
    assert not net[1]._forward_hooks


def test_a_network_without_instance_norms_is_refused():
    with pytest.raises(LookupError, match="Sequential has no instance norms"), constant_statistics(nn.Sequential()):
        pass
