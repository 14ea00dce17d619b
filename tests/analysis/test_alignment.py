"""Fields that lie along a blur: Wiener filters of known kernels, ones that never turn, and lines in closed form."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from analysis.alignment import aligned, blur_alignment, in_disc, reach_along
from analysis.erf import effective_receptive_field
from analysis.transfer import wiener
from evssm.data.kernels import motion_kernel

EVERY = tuple(range(0, 180, 30))


def images(n=1, h=41, w=57):
    return torch.rand(n, 1, h, w, dtype=torch.float64)


@pytest.mark.parametrize("angle", EVERY)
@pytest.mark.parametrize("length", [5, 9])
def test_the_field_of_a_wiener_filter_lies_along_its_blur(length, angle):
    field = effective_receptive_field(wiener(motion_kernel(length, angle)), images(), residual="include").map
    found = aligned(field, length, angle)
    assert found.off < 5
    assert found.score > 0.98
    assert found.elongation > 1.5
    assert found.along > 1.3 * found.across


def test_longer_blur_needs_more_along_and_no_more_across():
    fields = {
        length: effective_receptive_field(wiener(motion_kernel(length, 0)), images(), residual="include").map
        for length in (3, 9)
    }
    short, long = (aligned(field, length, 0.0) for length, field in fields.items())
    assert long.along > short.along + 3
    assert [long.across, short.across] == pytest.approx(
        [0, 0]
    )  # the kernel of a horizontal motion lies in one row, and so does its inverse


def test_a_field_that_never_turns_scores_zero_on_the_whole():
    row = torch.ones(1, 1, 1, 9, dtype=torch.float64)
    found = blur_alignment(lambda x: F.conv2d(x, row, padding=(0, 4)), images(2), lengths=(4,), residual="include")
    assert [round(m.score, 9) for m in found.motions] == [1, 0, -1, 0]
    assert found.scores()[4.0] == pytest.approx(0, abs=1e-12)
    assert [m.axis for m in found.motions] == [0] * 4


def test_a_network_that_undoes_each_blur_scores_one():
    class Knows:
        """Undoes the blur that it is told of."""

        def __call__(self, x):
            return wiener(self.kernel)(x)

    net, found = Knows(), []
    for angle in EVERY:
        net.kernel = motion_kernel(7, angle)
        found += blur_alignment(net, images(), lengths=(7,), angles=(angle,), residual="include").motions
    assert np.mean([m.score for m in found]) > 0.98


@pytest.mark.parametrize("angle", [0, 90, 45])
def test_reach_along_a_line(angle):
    field = np.zeros((21, 21))
    for t in range(-10, 11):  # 21 equal points
        field[10 - round(t * np.sin(np.radians(angle))), 10 + round(t * np.cos(np.radians(angle)))] += 1
    assert reach_along(field, angle, 1.0) == pytest.approx(10 if angle != 45 else np.hypot(7, 7))
    assert reach_along(field, angle + 90, 1.0) == pytest.approx(0, abs=1e-9)


def test_the_form_of_the_image_gives_no_direction():
    flat = np.ones((21, 61))
    assert aligned(flat, 1.0, 0.0).elongation == pytest.approx(1, abs=1e-3)
    assert in_disc(flat).sum() < flat.sum()


def test_no_motion_is_no_question():
    with pytest.raises(ValueError, match="no motions"):
        blur_alignment(torch.relu, images(), lengths=())
