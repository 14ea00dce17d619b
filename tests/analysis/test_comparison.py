"""Restored images side by side: scores and errors from known ones, a box chosen by brute force, and what is drawn."""

from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

from analysis.comparison import comparison_table, most_blurred_box, restore
from analysis.comparison_figure import comparison_panels, draw_error, error_scale
from evssm import Protocol, build
from evssm.data.pairs import Pair

H, W = 20, 28
EXACT = Protocol(rounding="none")


@pytest.fixture(autouse=True)
def _closed():
    plt.switch_backend("Agg")
    yield
    plt.close("all")


class Plus(nn.Module):
    """Adds a constant."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return x + self.value


def pair(error=0.25):
    sharp = torch.rand(3, H, W) / 4 + 0.25
    return Pair(sharp + error, sharp, "night-12px")


def words(figure):
    return " ".join(text.get_text() for text in figure.findobj(plt.Text))


def test_half_the_error_gains_six_decibels_and_removes_three_quarters():
    found = restore({"half": Plus(-0.125), "none": Plus(0.0), "worse": Plus(0.25)}, pair(), protocol=EXACT)
    assert found.blurred_psnr() == pytest.approx(20 * np.log10(4), abs=1e-4)
    gains = found.gains()
    assert gains["half"] == pytest.approx(20 * np.log10(2), abs=1e-4)
    assert gains["none"] == pytest.approx(0, abs=1e-4)
    removed = found.removed()
    assert removed["half"] == pytest.approx(0.75, abs=1e-4)
    assert removed["worse"] == pytest.approx(-3, abs=1e-2)
    np.testing.assert_allclose(found.error(found.restored["half"]), 255 / 8, rtol=1e-4)


def test_networks_of_two_views_get_those_and_are_held_against_the_photograph_of_the_whole_lens():
    x = pair()
    views = torch.cat((x.sharp + 0.125, x.sharp - 0.125))
    found = restore({"mean": lambda both: sum(both.chunk(2, dim=1)) / 2}, x, views=views, protocol=EXACT)
    torch.testing.assert_close(found.restored["mean"], x.sharp)
    assert found.blurred_psnr() == pytest.approx(20 * np.log10(4), abs=1e-4)
    with pytest.raises(ValueError, match="takes images of 3 channels, not 6"):
        restore({"one": build("dpdnet-compact")}, x, views=views)
    with pytest.raises(ValueError, match="takes images of 6 channels, not 3"):
        restore({"two": build("dpdnet-dual-pixel-compact")}, x)


def test_an_error_is_the_root_mean_square_over_colours_and_the_score_follows_from_it():
    x = pair()
    found = restore({"mine": nn.Conv2d(3, 3, 1)}, x, protocol=EXACT)
    error = found.error(found.restored["mine"].clamp(0, 1))
    assert -10 * np.log10((error**2).mean() / 255**2) == pytest.approx(found.psnr(found.restored["mine"].clamp(0, 1)))
    box = (3, 5, 7, 11)
    inside = error[3:10, 5:16]
    assert -10 * np.log10((inside**2).mean() / 255**2) == pytest.approx(
        found.psnr(found.restored["mine"].clamp(0, 1), box)
    )


def test_the_box_is_the_one_that_a_search_of_all_finds():
    sharp, edge = torch.rand(3, H, W), 6
    blurred = torch.rand(3, H, W)
    squares = (blurred - sharp).double().square().sum(0)
    best = max(
        product(range(H - edge + 1), range(W - edge + 1)),
        key=lambda at: float(squares[at[0] : at[0] + edge, at[1] : at[1] + edge].sum()),
    )
    assert most_blurred_box(Pair(blurred, sharp, ""), edge) == (*best, edge, edge)
    assert most_blurred_box(Pair(blurred, sharp, ""), H)[0] == 0
    with pytest.raises(ValueError, match="21 px"):
        most_blurred_box(Pair(blurred, sharp, ""), H + 1)


def test_the_table_puts_the_best_first_and_says_whose_weights_are_untrained():
    nets = {"worse": Plus(0.1), "better": Plus(-0.2), "evssm-compact": build("evssm-compact")}
    text = comparison_table([restore(nets, pair(), protocol=EXACT), restore(nets, pair(0.3), protocol=EXACT)])
    rows = [line.split(" | ")[0].strip("| ") for line in text.splitlines()]
    assert rows[2:4] == ["blurred", "better"]
    assert rows.index("better") < rows.index("worse")
    assert "evssm-compact (untrained)" in rows
    assert "(+13.98)" in text  # 0.25 to 0.05
    assert "floats as they come" in text


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="stay where they are"):
        restore({}, pair(), protocol=Protocol(alignment="ecc"))
    with pytest.raises(ValueError, match="3 h w"):
        restore({}, Pair(torch.rand(6, H, W), torch.rand(3, H, W), "views"))
    with pytest.raises(ValueError, match="mine makes"):
        restore({"mine": nn.Conv2d(3, 3, 3)}, pair())
    with pytest.raises(ValueError, match="6 channels"):
        restore({"two": build("restormer-dual-pixel-compact")}, pair())


def test_errors_are_drawn_on_the_scale_that_is_given():
    error = np.arange(12.0).reshape(3, 4)
    (image,) = draw_error(plt.figure().add_subplot(), error, (1, 1, 2, 2), largest=7).images
    assert image.get_clim() == (0, 7)
    np.testing.assert_array_equal(image.get_array(), [[5, 6], [9, 10]])
    assert error_scale([error, 2 * error], (0, 0, 3, 4)) == pytest.approx(np.quantile(2 * error, 0.99))
    assert error_scale([0 * error], (0, 0, 3, 4)) == 1  # equal images have a scale too


def test_panels_show_each_network_above_its_errors_with_both_scores():
    x, box = pair(), (4, 6, 8, 8)
    nets = {f"n{k}-compact": Plus(-0.05 * k) for k in range(5)}
    nets["evssm-compact"] = build("evssm-compact")
    found = restore(nets, x)
    figure = comparison_panels(found, box)
    whole, sharp, *rest = [ax for ax in figure.axes if ax.images]
    details, errors = rest[::2], rest[1::2]
    np.testing.assert_allclose(whole.images[0].get_array(), x.blurred.permute(1, 2, 0), atol=1e-6)
    np.testing.assert_allclose(sharp.images[0].get_array(), x.sharp[:, 4:12, 6:14].permute(1, 2, 0), atol=1e-6)
    assert [ax.get_title() for ax in details] == ["blurred", *(name[:-8] for name in nets)]
    np.testing.assert_allclose(
        details[2].images[0].get_array(), found.restored["n1-compact"][:, 4:12, 6:14].permute(1, 2, 0), atol=1e-6
    )
    assert len({ax.images[0].get_clim() for ax in errors}) == 1
    np.testing.assert_allclose(errors[0].images[0].get_array(), 255 / 4, rtol=1e-4)
    image = found.restored["n3-compact"]
    assert errors[4].get_xlabel() == f"{found.psnr(image):.2f} ({found.psnr(image, box):.2f}) dB"
    assert words(figure).count("untrained weights") == 1
    assert "detail of 8 x 8 px at (4, 6)" in words(figure)


def test_no_panel_meets_another_or_leaves_the_picture():
    figure = comparison_panels(restore({f"n{k}": Plus(0.01 * k) for k in range(9)}, pair()), (0, 0, 10, 10))
    figure.canvas.draw()
    boxes = [ax.get_tightbbox() for ax in figure.axes]
    width, height = figure.canvas.get_width_height()
    for box in boxes:
        assert 0 <= box.x0 < box.x1 <= width
        assert 0 <= box.y0 < box.y1 <= height
    panels = [ax.get_position() for ax in figure.axes]
    assert not any(a is not b and a.overlaps(b) for a in panels for b in panels)
