"""PSNR and the three SSIMs against whole-number arithmetic, scikit-image and their definitions."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

import evssm
from evssm.metrics import SSIMS, Protocol, psnr, ssim, ssim_map
from evssm.photographs import photograph

RNG = np.random.default_rng()


def pair(h, w, b=1, noise=20):
    """Two 8-bit images, one the other with noise."""
    sharp = RNG.integers(0, 256, (b, 3, h, w))
    other = np.clip(sharp + RNG.integers(-noise, noise + 1, sharp.shape), 0, 255)
    return sharp.astype(np.uint8), other.astype(np.uint8)


def tensor(array, dtype=torch.float32):
    return torch.from_numpy(array.astype(np.float64) / 255).to(dtype)


def real_pair():
    """A photograph, and it moved by two pixels with some noise, as 8-bit arrays `h w c`."""
    whole = (photograph("coffee", (90, 131)).permute(1, 2, 0).numpy() * 255).round()
    moved = (whole[:, 2:] + whole[:, :-2]) / 2 + RNG.normal(0, 3, whole[:, 2:].shape)
    return whole[:, 1:-1].astype(np.uint8), np.clip(moved.round(), 0, 255).astype(np.uint8)


def batch(array):
    return tensor(np.moveaxis(array, -1, 0)[None])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_psnr_of_8_bit_arrays_is_that_of_their_whole_numbers(dtype):
    x, y = pair(23, 31, b=3)
    found = psnr(tensor(x, dtype), tensor(y, dtype))
    assert found.dtype == torch.float64
    for value, a, b in zip(found.tolist(), x.tolist(), y.tolist(), strict=True):
        squares = sum((p - q) ** 2 for p, q in zip(np.ravel(a).tolist(), np.ravel(b).tolist(), strict=True))
        assert value == pytest.approx(10 * math.log10(255**2 * 3 * 23 * 31 / squares), rel=1e-15)


def test_one_level_everywhere_is_48_decibels_and_equal_images_are_infinitely_good():
    x = torch.full((2, 3, 16, 16), 100 / 255)
    y = x.clone()
    y[1] += 1 / 255
    assert psnr(x, y).tolist() == [math.inf, pytest.approx(20 * math.log10(255), rel=1e-15)]


def test_rounding_hides_what_a_file_would_lose_and_clamps_what_it_cannot_hold():
    x = torch.full((1, 3, 16, 16), 0.25)
    assert psnr(x, x + 0.0005).isinf()
    assert psnr(x, x + 0.0005, rounding="none").item() == pytest.approx(-20 * math.log10(0.0005), abs=1e-3)
    assert psnr(x, x + 0.0005, rounding="16-bit").item() == pytest.approx(-20 * math.log10(33 / 65535), rel=1e-12)
    white = torch.ones(1, 3, 16, 16)
    assert psnr(white, white + 0.3).isinf()
    assert psnr(white, white + 0.3, rounding="none").isfinite()


def test_images_of_a_batch_do_not_see_each_other():
    x, y = (tensor(m) for m in pair(20, 17, b=4))
    for measure in (psnr, *(lambda a, b, v=v: ssim(a, b, variant=v) for v in SSIMS)):
        alone = torch.cat([measure(a[None], b[None]) for a, b in zip(x, y, strict=True)])
        torch.testing.assert_close(measure(x, y), alone, rtol=1e-13, atol=0)


SKIMAGE = {
    "gauss": {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False},
    "uniform": {},
}


@pytest.mark.parametrize("variant", SKIMAGE)
def test_ssim_is_that_of_scikit_image(variant):
    for a, b in (real_pair(), [np.moveaxis(m[0], 0, -1) for m in pair(19, 40)]):
        theirs = structural_similarity(a, b, channel_axis=-1, data_range=255, **SKIMAGE[variant])
        assert ssim(batch(a), batch(b), variant=variant).item() == pytest.approx(theirs, abs=1e-12)


def volume_ssim(x, y):
    """The definition: all three axes filtered at once, edges repeated."""

    def mean(m):
        return gaussian_filter(m, 1.5, mode="nearest", truncate=3.5)

    x, y = x / 255.0, y / 255.0
    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    return (((2 * mx * my + c1) * (2 * vxy + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean()


def test_volume_ssim_is_its_definition():
    for a, b in (real_pair(), [np.moveaxis(m[0], 0, -1) for m in pair(19, 40)]):
        assert ssim(batch(a), batch(b), variant="volume").item() == pytest.approx(volume_ssim(a, b), abs=1e-12)


def test_the_variants_differ_enough_to_need_names():
    a, b = map(batch, real_pair())
    gauss, uniform, volume = (ssim(a, b, variant=variant).item() for variant in ("gauss", "uniform", "volume"))
    assert volume > max(gauss, uniform) + 0.02
    assert gauss != pytest.approx(uniform, abs=1e-6)


@pytest.mark.parametrize("variant", SSIMS)
def test_ssim_of_equal_images_is_one_and_of_constants_a_closed_form(variant):
    x = tensor(pair(16, 21)[0])
    assert ssim(x, x, variant=variant).item() == pytest.approx(1, abs=1e-12)
    p, q = 51 / 255, 204 / 255
    dark, bright = torch.full((1, 3, 16, 21), p), torch.full((1, 3, 16, 21), q)
    expected = (2 * p * q + 1e-4) / (p * p + q * q + 1e-4)
    assert ssim(dark, bright, variant=variant).item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("variant", SSIMS)
def test_a_crop_scores_the_image_without_its_borders(variant):
    x, y = (tensor(m) for m in pair(30, 37))
    inner = (..., slice(4, -4), slice(4, -4))
    assert torch.equal(psnr(x, y, crop=4), psnr(x[inner], y[inner]))
    assert torch.equal(ssim(x, y, crop=4, variant=variant), ssim(x[inner], y[inner], variant=variant))


def test_a_mask_leaves_pixels_out_of_the_mean():
    x, y = (tensor(m) for m in pair(30, 37))
    mask = torch.zeros(1, 1, 30, 37)
    mask[..., 3:20, 9:30] = 1
    torch.testing.assert_close(psnr(x, y, mask=mask), psnr(x[..., 3:20, 9:30], y[..., 3:20, 9:30]), rtol=1e-12, atol=0)
    values = ssim_map(x, y)[..., : 20 - 5, 9 - 5 : 30 - 5]
    torch.testing.assert_close(ssim(x, y, mask=mask)[0], values.mean(), rtol=1e-5, atol=1e-6)  # x is float32 here
    assert torch.equal(psnr(x, y, mask=torch.ones(1, 1, 30, 37)), psnr(x, y))


def test_nan_is_told_and_never_scored():
    x, y = (tensor(m) for m in pair(20, 20, b=2))
    x[0, 1, 3, 4] = math.nan
    for values in (psnr(x, y), psnr(x, y, rounding="none"), ssim(x, y), ssim(x, y, variant="volume")):
        assert values.isnan().tolist() == [True, False]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: psnr(x, x[..., 1:]), "one shape"),
        (lambda x: psnr(x, x, rounding="7-bit"), "8-bit, 16-bit, none"),
        (lambda x: psnr(x, x, crop=10), "leaves some"),
        (lambda x: ssim(x, x, variant="matlab"), "gauss, uniform, volume"),
        (lambda x: ssim(x[..., :9], x[..., :9]), "windows of 11"),
        (lambda x: Protocol(rounding="float"), "8-bit, 16-bit, none"),
        (lambda x: Protocol(ssim="matlab"), "gauss, uniform, volume"),
        (lambda x: Protocol(alignment="sift"), "none, ecc"),
        (lambda x: Protocol(crop=-1), "0 or more"),
    ],
)
def test_what_cannot_be_scored_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.rand(1, 3, 20, 20))


def test_a_protocol_says_everything_in_a_line():
    line = Protocol(rounding="16-bit", ssim="volume", crop=3, alignment="ecc").describe()
    assert all(part in line for part in ("16 bits", "ssim_volume", "3 border pixels", "ECC"))
    assert "\n" not in line
    assert Protocol().describe() != Protocol(rounding="none").describe()


def test_scores_are_at_the_top_of_the_package():
    assert (evssm.psnr, evssm.ssim, evssm.Protocol) == (psnr, ssim, Protocol)
