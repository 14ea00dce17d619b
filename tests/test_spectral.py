import pytest
import torch
from torch.testing import assert_close

from evssm.spectral import PatchSpectrum


def by_fft(x, gain):
    b, c, h, w = x.shape
    patches = x.reshape(b, c, h // 8, 8, w // 8, 8).transpose(3, 4)
    filtered = torch.fft.irfft2(torch.fft.rfft2(patches) * gain, s=(8, 8))
    return filtered.transpose(3, 4).reshape(b, c, h, w)


def test_the_filter_is_the_fft_with_any_gain_also_unsymmetric_ones():
    spectrum = PatchSpectrum(3).double()
    torch.nn.init.normal_(spectrum.gain)
    x = torch.randn(2, 3, 16, 24, dtype=torch.float64)
    assert_close(spectrum(x), by_fft(x, spectrum.gain))
    assert_close(spectrum(x.contiguous(memory_format=torch.channels_last)), spectrum(x))


def test_unsymmetric_gains_get_the_gradient_of_the_fft():
    spectrum, x = PatchSpectrum(2).double(), torch.randn(1, 2, 8, 16, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(1, 2, 8, 16, dtype=torch.float64)
    ours = torch.autograd.grad((spectrum(x) * weight).sum(), (x, spectrum.gain))
    assert_close(ours, torch.autograd.grad((by_fft(x, spectrum.gain) * weight).sum(), (x, spectrum.gain)))


def test_a_fresh_filter_changes_nothing():
    x = torch.randn(1, 4, 8, 8, dtype=torch.float64)
    assert_close(PatchSpectrum(4).double()(x), x)


def test_patches_do_not_see_each_other():
    spectrum = PatchSpectrum(1).double()
    torch.nn.init.normal_(spectrum.gain)
    x = torch.zeros(1, 1, 16, 16, dtype=torch.float64)
    x[0, 0, 3, 12] = 1
    y = spectrum(x)[0, 0]
    assert y[:8, 8:].abs().min() >= 0 < y[:8, 8:].abs().max()
    y[:8, 8:] = 0
    assert y.abs().max() == 0


def test_a_map_without_whole_patches_is_refused():
    with pytest.raises(ValueError, match="12 x 16"):
        PatchSpectrum(1)(torch.rand(1, 1, 12, 16))
