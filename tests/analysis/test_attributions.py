"""Attributions with known answers: linear networks, a definition written out again, and a caller left undisturbed."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from analysis.attribution import Attribution, diffusion_index, gini, load_attributions, save_attributions
from analysis.attributions import METHODS, Settings, local_attribution
from analysis.lam import blur_path, gaussian_blur, integral_along
from analysis.regions import RegionScalar, around, check_box, edge_strength
from evssm.memory import _Live

BOX = (5, 6, 7, 4)


def image(h=20, w=24, c=3):
    return torch.rand(1, c, h, w, dtype=torch.float64)


class Linear(nn.Module):
    """Mixes colours and neighbours, without biases."""

    def __init__(self, c=3):
        super().__init__()
        self.conv = nn.Conv2d(c, c, 5, padding=2, bias=False).double()

    def forward(self, x):
        return x + self.conv(x)


class Bent(nn.Module):
    """A small restorer with dropout, batch normalisation and a frozen parameter; counts the images that it sees."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.GELU(), nn.Dropout(0.5), nn.Conv2d(6, 3, 3, padding=1)
        ).double()
        self.body[0].bias.requires_grad_(False)
        self.batches = []

    def forward(self, x):
        self.batches.append(len(x))
        return x + self.body(x)


# --- a region as a number ---------------------------------------------------------------------------------------------


def test_a_slope_of_one_has_strength_one_per_pixel_and_channel():
    ramp = torch.arange(9.0, dtype=torch.float64).expand(2, 3, 9, 9)
    for y in (ramp, ramp.mT):
        assert edge_strength(y, (2, 3, 4, 5)).tolist() == pytest.approx([3 * 4 * 5] * 2, rel=1e-3)
    assert edge_strength(3 * ramp + 4 * ramp.mT, (0, 0, 2, 2))[0] == pytest.approx(5 * 3 * 4, rel=1e-3)


def test_at_the_border_only_pixels_with_a_next_row_and_column_count():
    ramp = torch.arange(6.0, dtype=torch.float64).expand(1, 1, 6, 6)
    assert edge_strength(ramp, (4, 4, 2, 2)).item() == pytest.approx(1, rel=1e-3)


def test_a_flat_region_has_strength_zero_and_a_finite_slope():
    flat = torch.full((1, 3, 8, 8), 0.5, dtype=torch.float64, requires_grad=True)
    strength = edge_strength(flat, (2, 2, 3, 3))
    assert strength.item() == 0
    (slope,) = torch.autograd.grad(strength.sum(), flat)
    assert slope.isfinite().all()


def test_a_region_sees_the_chosen_output_and_the_residual():
    x = image()
    inside = (..., slice(5, 12), slice(6, 10))
    assert RegionScalar(lambda x: 3 * x, BOX, "sum")(x).item() == pytest.approx(3 * x[inside].sum().item())
    assert RegionScalar(lambda x: 3 * x, BOX, "sum", residual="exclude")(x).item() == pytest.approx(
        2 * x[inside].sum().item()
    )
    two = RegionScalar(lambda x: (x[..., ::2, ::2], -x), BOX, "sum", select=-1)
    assert two(x).item() == pytest.approx(-x[inside].sum().item())


@pytest.mark.parametrize(
    "box", [(0, 0, 0, 4), (-1, 0, 4, 4), (14, 0, 7, 4), (0, 21, 4, 4), (0, 0, 4), "here", (0.0, 0, 4, 4)]
)
def test_regions_outside_the_image_are_refused(box):
    with pytest.raises(ValueError, match="region"):
        check_box(box, 20, 24)


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor, lambda box: np.array(box, dtype=np.uint8)])
def test_whole_numbers_of_any_kind_name_a_region(kind):
    assert check_box(kind([3, 4, 5, 6]), 20, 24) == (3, 4, 5, 6)
    assert {type(number) for number in check_box(kind([3, 4, 5, 6]), 20, 24)} == {int}


def test_what_surrounds_a_region_lies_on_the_grid_and_holds_the_region():
    x = torch.arange(200.0 * 300).reshape(1, 1, 200, 300)
    for box, margin in (((70, 130, 16, 20), 10), ((0, 0, 5, 5), 33), ((195, 290, 5, 10), 0), ((50, 50, 32, 32), 500)):
        cut, moved, (row, column) = around(x, box, margin)
        assert row % 32 == column % 32 == 0
        top, left, height, width = moved
        assert torch.equal(
            cut[..., top : top + height, left : left + width],
            x[..., box[0] : box[0] + height, box[1] : box[1] + width],
        )
        assert top >= min(margin, box[0])
        assert cut.shape[-1] - left - width >= min(margin, 300 - box[1] - width)
        assert (row + cut.shape[-2]) % 32 == 0 or row + cut.shape[-2] == 200
        assert min(cut.shape[-2:]) >= 32  # no network takes less than 16


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"reduce": "max"}, "reduction"),
        ({"residual": "half"}, "residual"),
        ({"method": "deeplift"}, "lam"),
        ({"steps": 0}, "steps"),
        ({"baseline": "grey", "method": "occlusion"}, "black, mean, blur"),
        ({"baseline": "mean"}, "integrated_gradients"),
        ({"baseline": torch.zeros(3, 2, 2), "method": "occlusion"}, "baseline"),
        ({"sigma": 9}, "blur"),
        ({"box": (0, 0, 99, 2)}, "does not lie"),
        ({"box": "left"}, "centre"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(options, part):
    with pytest.raises(ValueError, match=part) as caught:
        local_attribution(Linear(), image(), **{"box": BOX, **options})
    assert "\n" not in str(caught.value)


def test_outputs_that_are_no_images_of_the_inputs_size_are_refused():
    with pytest.raises(ValueError, match="select="):
        local_attribution(lambda x: x[..., ::2, ::2], image(), BOX)
    with pytest.raises(ValueError, match="residual"):
        local_attribution(lambda x: x[:, :1], image(), BOX, residual="exclude")


# --- linear networks --------------------------------------------------------------------------------------------------


def test_in_a_linear_network_every_method_gives_gradient_times_difference():
    net, x = Linear(), image()
    ask = {"box": BOX, "reduce": "sum", "steps": 3, "window": 1}
    start = torch.rand_like(x)
    (gradient,) = torch.autograd.grad(RegionScalar(net, BOX, "sum")(x.requires_grad_()).sum(), x)
    x = x.detach()
    truth = (gradient * (x - start))[0].numpy()
    blurred = gaussian_blur(x, 1.2)
    for method, baseline, expected in (
        ("integrated_gradients", start, truth),
        ("gradient_x_input", start, truth),
        ("integrated_gradients", "blur", (gradient * (x - blurred))[0].numpy()),
        ("lam", None, (gradient * (x - blurred))[0].numpy()),
        ("gradient_x_input", None, (gradient * x)[0].numpy()),
    ):
        found = local_attribution(net, x, method=method, baseline=baseline, **ask)
        np.testing.assert_allclose(found.per_channel, expected, rtol=1e-6, atol=1e-9)  # captum's weights are float32
        assert found.completeness_gap < 1e-5
    occluded = local_attribution(net, x, method="occlusion", baseline=start, **ask)
    np.testing.assert_allclose(occluded.map, truth.sum(axis=0), atol=1e-6)


@pytest.mark.parametrize("window", [4, 7, 50])
def test_occlusion_shares_the_loss_evenly_in_each_square_and_is_complete_for_a_linear_network(window):
    net, x = Linear(), image()
    found = local_attribution(net, x, BOX, method="occlusion", reduce="sum", window=window)
    assert found.completeness_gap < 1e-5
    square = found.per_channel[:, :4, :4]
    assert np.ptp(square) == pytest.approx(0, abs=1e-12 * np.abs(square).max())


def test_a_network_that_copies_is_explained_by_the_region_alone():
    found = local_attribution(lambda x: 2 * x, image(), BOX, method="gradient_x_input", reduce="sum")
    assert found.share_in_region() == pytest.approx(1)
    assert found.effective_pixels() <= 28
    assert found.value == found.change


# --- paths ------------------------------------------------------------------------------------------------------------


def test_the_blur_ends_the_path_at_the_image_and_keeps_what_is_flat():
    x, flat = image(), torch.full((1, 2, 20, 20), 0.3, dtype=torch.float64)
    path = blur_path(x, 1.2)
    assert torch.equal(path(1.0), x)
    assert torch.equal(path(0.0), gaussian_blur(x, 1.2))
    torch.testing.assert_close(gaussian_blur(flat, 2.0), flat)
    spike = torch.zeros(1, 1, 31, 31, dtype=torch.float64)
    spike[..., 15, 15] = 1
    spread = gaussian_blur(spike, 2.0)[0, 0]
    assert spread.sum().item() == pytest.approx(1)
    distance = torch.arange(31.0, dtype=torch.float64) - 15
    assert (spread.sum(dim=0) @ distance.square()).item() == pytest.approx(4, rel=0.03)  # ends at three sigma


def test_the_gap_falls_with_the_square_of_the_steps():
    x = image()

    def cubic(y):
        return y.pow(3).sum(dim=(1, 2, 3))

    def line(a):
        return a * x

    gaps = [cubic(x).item() - integral_along(cubic, line, steps).sum().item() for steps in (1, 2, 4)]
    assert gaps[0] == pytest.approx(cubic(x).item() / 4)  # the middle of 3 a^2 for its mean
    assert gaps[1] / gaps[0] == pytest.approx(0.25)
    assert gaps[2] / gaps[1] == pytest.approx(0.25)


def test_lam_is_the_definition_of_gu_and_dong():
    net, x, sigma, fold = Bent().eval(), image(), 1.0, 400
    found = local_attribution(net, x, BOX, steps=50, sigma=sigma)
    total = torch.zeros_like(x)
    for k in range(1, fold + 1):  # right Riemann sum, as in their equation 7
        here, before = (gaussian_blur(x, sigma * (1 - a / fold), largest=sigma) for a in (k, k - 1))
        here.requires_grad_()
        y = net(here)
        down = y[..., 6:13, 6:10] - y[..., 5:12, 6:10]
        right = y[..., 5:12, 7:11] - y[..., 5:12, 6:10]
        (gradient,) = torch.autograd.grad((down**2 + right**2).sqrt().sum(), here)
        total += gradient * (here.detach() - before)
    truth = total.sum(dim=1)[0].numpy()
    np.testing.assert_allclose(found.map, truth, atol=0.01 * np.abs(truth).max())
    assert found.completeness_gap < 0.01


def test_the_gap_shows_an_integral_that_was_not_done():
    net, one, many = Bent().eval(), 0.0, 0.0
    for _ in range(10):  # a single step is right by chance now and then
        x = 3 * image()
        one += local_attribution(net, x, BOX, method="integrated_gradients", steps=1).completeness_gap
        many += local_attribution(net, x, BOX, method="integrated_gradients", steps=60).completeness_gap
    assert many < 10 * 0.05
    assert one > 2 * many


# --- statistics -------------------------------------------------------------------------------------------------------


def test_the_gini_coefficient_is_half_the_mean_difference_over_the_mean():
    values = np.random.default_rng().random(40)
    pairs = np.abs(values[:, None] - values[None, :]).mean()
    assert gini(values) == pytest.approx(pairs / (2 * values.mean()))


def test_the_diffusion_index_of_known_maps():
    assert diffusion_index(np.full((6, 7), -2.0)) == pytest.approx(100)
    assert diffusion_index(np.zeros((6, 7))) == pytest.approx(100)
    spike = np.zeros((10, 20))
    spike[3, 4] = -5
    assert diffusion_index(spike) == pytest.approx(100 / 200, rel=5e-3)  # the floor


def test_zeros_around_a_map_divide_its_diffusion_index_and_leave_its_effective_pixels():
    field = np.random.default_rng().standard_normal((1, 8, 9))
    padded = np.zeros((1, 16, 18))
    padded[:, :8, :9] = field
    small, large = (Attribution(a, "lam", (0, 0, 2, 2), 1.0, 1.0, {}) for a in (field, padded))
    assert large.diffusion_index == pytest.approx(small.diffusion_index / 4, rel=1e-4)
    assert large.effective_pixels() == pytest.approx(small.effective_pixels())


def test_the_completeness_gap_is_relative_to_the_change():
    field = np.full((3, 2, 2), 0.5)
    assert Attribution(field, "lam", (0, 0, 1, 1), 9.0, 5.0, {}).completeness_gap == pytest.approx(0.2)
    assert Attribution(field, "lam", (0, 0, 1, 1), 9.0, -6.0, {}).completeness_gap == pytest.approx(2)
    flat = Attribution(field, "lam", (0, 0, 1, 1), 9.0, 0.0, {})
    assert flat.completeness_gap == np.inf
    assert flat.numbers()["completeness_gap"] is None
    assert Attribution(0 * field, "lam", (0, 0, 1, 1), 9.0, 0.0, {}).completeness_gap == 0


# --- the caller's network ---------------------------------------------------------------------------------------------


def state_of(net):
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in net.modules()]
    modes = [m.training for m in net.modules()]
    flags = [(p.requires_grad, p.grad) for p in net.parameters()]
    return hooks, modes, flags, torch.random.get_rng_state().tolist()


@pytest.mark.parametrize("method", METHODS)
def test_network_gradients_random_state_and_image_are_left_alone_also_by_a_failure(method):
    net, x = Bent().train(), image()
    before, kept = state_of(net), x.clone()
    local_attribution(net, x, BOX, method=method, steps=2, window=10)
    assert state_of(net) == before
    net.body.append(nn.Conv2d(5, 3, 1))
    before = state_of(net)
    with pytest.raises(RuntimeError):
        local_attribution(net, x, BOX, method=method, steps=2, window=10)
    assert state_of(net) == before
    assert torch.equal(x, kept)
    assert not x.requires_grad


@pytest.mark.parametrize("method", METHODS)
def test_one_image_at_a_time_and_every_run_is_counted(method):
    net, told = Bent(), []
    local_attribution(net, image(), BOX, method=method, steps=5, window=7, progress=lambda *at: told.append(at))
    assert set(net.batches) == {1}
    total = Settings(5, 1.2, 7).evaluations(method, 20, 24)
    assert told == [(k, total) for k in range(1, total + 1)]


@pytest.mark.parametrize("method", ["lam", "integrated_gradients"])
def test_memory_does_not_grow_with_the_steps(method):
    net, x = Bent(), image()
    local_attribution(net, x, BOX, method=method, steps=2)  # what is made once
    peaks = []
    for steps in (8, 64):
        with _Live() as live:
            local_attribution(net, x, BOX, method=method, steps=steps)
        peaks.append(live.peak)
    assert peaks[1] <= 1.02 * peaks[0]


def test_the_measure_of_memory_sees_a_batch():
    with _Live() as one:
        torch.rand(8, 3, 20, 24).square()
    with _Live() as many:
        torch.rand(64, 3, 20, 24).square()
    assert many.peak == 8 * one.peak


def test_a_random_function_and_two_images_are_refused():
    with pytest.raises(ValueError, match="random"):
        local_attribution(lambda x: x + torch.rand_like(x), image(), BOX)
    with pytest.raises(ValueError, match="one image"):
        local_attribution(Linear(), torch.cat([image(), image()]), BOX)


def test_a_map_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        local_attribution(lambda x: (x - x).sqrt(), image(), BOX, method="gradient_x_input", reduce="sum")


# --- kept -------------------------------------------------------------------------------------------------------------


def test_attributions_come_back_from_their_file(tmp_path):
    found = {"lam": local_attribution(Linear(), image(), BOX, steps=2)}
    read = load_attributions(save_attributions(tmp_path / "a.npz", found))["lam"]
    np.testing.assert_array_equal(read.per_channel, found["lam"].per_channel)
    assert read.numbers() == found["lam"].numbers()
    assert read.provenance == found["lam"].provenance
    (tmp_path / "b.npz").write_text("something")
    with pytest.raises(ValueError, match=r"b\.npz holds no attributions"):
        load_attributions(tmp_path / "b.npz")


def test_float32_images_give_maps_in_float64():
    found = local_attribution(F.relu, image().float(), BOX, steps=4)
    assert found.per_channel.dtype == np.float64
    assert found.completeness_gap < 0.1
