"""Transfer functions: a convolution's own spectrum, Wiener filters in closed form, and the identity."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close
from untouched import untouched

from analysis.transfer import blur_transfer, transfer_function, transfer_of, wiener
from evssm import build
from evssm.data.kernels import blur, motion_kernel


def images(n=1, c=1, h=21, w=30):
    return torch.rand(n, c, h, w, dtype=torch.float64)


def test_a_convolutions_transfer_function_is_the_spectrum_of_its_kernel():
    kernel = torch.randn(3, 5, dtype=torch.float64)

    def net(x):
        return F.conv2d(x, kernel.expand(3, 1, 3, 5), padding=(1, 2), groups=3)

    for query in ((10, 15), (4, 20)):
        found = transfer_function(net, images(2, 3), query=query)
        want = transfer_of(kernel.flip(0, 1), 21, 30)  # conv2d correlates
        for one in found.per_image:
            assert_close(torch.from_numpy(one), want)


def test_a_wave_comes_out_with_the_gain():
    net, f = wiener(motion_kernel(5, 30)), (3 / 21, 4 / 30)
    y, x = torch.meshgrid(torch.arange(21.0).double(), torch.arange(30.0).double(), indexing="ij")
    phase = 2 * np.pi * (f[0] * y + f[1] * x)
    out = torch.complex(*(net(part[None, None])[0, 0] for part in (phase.cos(), phase.sin())))
    gain = transfer_function(net, images()).response[3, 4]
    assert_close(out[10, 15] / torch.polar(torch.ones_like(phase), phase)[10, 15], torch.tensor(gain))


@pytest.mark.parametrize("angle", [0, 30, 90])
def test_a_wiener_filter_undoes_its_blur_by_the_formula(angle):
    kernel, noise = motion_kernel(6, angle), 0.003
    found = blur_transfer(wiener(kernel, noise), images(), length=6, angle=angle)
    power = transfer_of(kernel, 21, 30).abs().square().numpy()
    np.testing.assert_allclose((found.response * found.blur).real, power / (power + noise), atol=1e-12)
    restored, blurred = found.restored()
    assert restored == pytest.approx((power / (power + noise)).mean())
    assert restored > blurred + 0.2
    along, across = ([r for r in found.rows() if r["direction"] == d] for d in ("along", "across"))
    assert max(r["ideal"] for r in along) > 2
    assert np.mean([r["blur"] for r in across]) > np.mean([r["blur"] for r in along]) + 0.2


def test_the_identity_leaves_the_blur_as_it_is():
    found = blur_transfer(nn.Identity(), images(), length=6, angle=0)
    np.testing.assert_allclose(found.response, 1)
    restored, blurred = found.restored()
    assert restored == pytest.approx(blurred)
    for row in found.rows():
        assert row["gain"] == pytest.approx(1)


def test_without_a_known_blur_there_is_only_the_gain():
    found = transfer_function(nn.Identity(), images())
    assert {row["direction"] for row in found.rows()} == {"all"}
    assert all(np.isnan(row["together"]) for row in found.rows())
    with pytest.raises(ValueError, match="not known"):
        found.restored()


def test_a_networks_residual_is_part_and_it_is_left_as_it_was():
    net = build("nafnet-compact").double().train()
    x = images(1, 3, 16, 17)
    with untouched(net):
        found = transfer_function(net, x)
    net.ending.weight.data.zero_()
    np.testing.assert_allclose(transfer_function(net, x).response, 1)
    assert np.abs(found.response - 1).max() > 1e-6
    with untouched(net), pytest.raises(ValueError, match="outside"):
        transfer_function(net, x, query=(16, 0))


def test_the_transfer_of_a_kernel_is_what_it_does_to_a_periodic_image():
    kernel, x = torch.rand(3, 5, dtype=torch.float64), torch.rand(8, 12, dtype=torch.float64)
    want = sum(kernel[i, j] * x.roll((i - 1, j - 2), (0, 1)) for i in range(3) for j in range(5))
    assert_close(torch.fft.ifft2(torch.fft.fft2(x) * transfer_of(kernel, 8, 12)).real, want)
    inside = blur(x[None, None], kernel / kernel.sum(), linear=False)[0, 0, 1:-1, 2:-2]
    assert_close(inside, want[1:-1, 2:-2] / kernel.sum())
