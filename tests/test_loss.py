import pytest
import torch
from torch.testing import assert_close

from evssm.loss import deblurring_loss, frequency_distance


def by_definition(x, y, scaling):
    """Mean over every entry of the full transform's real and imaginary parts, stacked."""
    parts = torch.view_as_real(torch.fft.fft2(x, norm=scaling)) - torch.view_as_real(torch.fft.fft2(y, norm=scaling))
    return parts.abs().mean()


@pytest.mark.parametrize("size", [(8, 8), (7, 8), (8, 7), (5, 9), (1, 1), (1, 2), (2, 1)])
@pytest.mark.parametrize("scaling", ["backward", "ortho"])
def test_half_of_the_spectrum_counts_for_all_of_it(size, scaling):
    x, y = torch.rand(2, 2, 3, *size, dtype=torch.float64)
    assert_close(frequency_distance(x, y, scaling), by_definition(x, y, scaling))


@pytest.mark.parametrize("weight", [0.0, 0.1, 2.0])
@pytest.mark.parametrize("scaling", ["backward", "ortho"])
def test_the_loss_is_its_formula(weight, scaling):
    x, y = torch.rand(2, 4, 3, 6, 10, dtype=torch.float64)
    expected = (x - y).abs().mean() + weight * by_definition(x, y, scaling)
    assert_close(deblurring_loss(x, y, frequency_weight=weight, scaling=scaling), expected)


def test_a_constant_error_lies_in_one_frequency():
    x = torch.zeros(1, 1, 4, 8, dtype=torch.float64)
    # Only the mean's entry of 32 x 2 parts differs, by 32 times the error.
    assert_close(frequency_distance(x + 0.25, x), torch.tensor(0.25 * 32 / 64, dtype=torch.float64))
    assert_close(deblurring_loss(x + 0.25, x), torch.tensor(0.25 + 0.1 * 0.125, dtype=torch.float64))


def test_unscaled_it_grows_with_the_side_and_ortho_does_not():
    torch.manual_seed(0)
    small, large = (torch.randn(8, 1, n, n, dtype=torch.float64) for n in (32, 128))
    growth = {s: frequency_distance(large, 0 * large, s) / frequency_distance(small, 0 * small, s) for s in
              ("backward", "ortho")}  # fmt: skip
    assert growth["backward"] == pytest.approx(4, rel=0.05)
    assert growth["ortho"] == pytest.approx(1, rel=0.05)


def test_its_gradient_is_that_of_the_formula():
    y = torch.rand(1, 2, 5, 6, dtype=torch.float64)
    x = torch.rand_like(y).requires_grad_()
    ours = torch.autograd.grad(deblurring_loss(x, y), x)
    expected = torch.autograd.grad((x - y).abs().mean() + 0.1 * by_definition(x, y, "backward"), x)
    assert_close(ours, expected)
