"""TensorFlow's padding and resizing, on small arrays of whole numbers worked out by hand."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from evssm.tf_layers import doubled, same, same_padding, subsampled


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "padding"),
    [
        (3, 1, 1, (1, 1)),
        (5, 1, 1, (2, 2)),
        (3, 2, 1, (0, 1)),
        (5, 2, 1, (1, 2)),
        (2, 1, 1, (0, 1)),
        (5, 1, 2, (4, 4)),
        (5, 1, 5, (10, 10)),
        (1, 2, 1, (0, 0)),
    ],
)
def test_the_odd_pixel_of_padding_comes_last(kernel, stride, dilation, padding):
    assert same_padding(kernel, stride, dilation) == padding


def summing(kernel, stride, rows):
    """A convolution that adds up what it reads, run on `rows`."""
    layers = nn.Sequential(*same(1, 1, kernel, stride))
    nn.init.ones_(layers[-1].weight)
    nn.init.zeros_(layers[-1].bias)
    with torch.no_grad():
        return layers(torch.tensor(rows, dtype=torch.float32)[None, None])[0, 0].tolist()


def test_three_taps_at_every_second_pixel_start_on_the_first():
    """Rows 1 2 3 4: windows (1 2 3) and (3 4 0); both rows are read once each."""
    assert summing(3, 2, [[1, 2, 3, 4], [10, 20, 30, 40]]) == [[66, 77]]


def test_five_taps_at_every_second_pixel_start_one_before_the_first():
    """Rows 1 2 3 4: windows (0 1 2 3 4) and (2 3 4 0 0); the rows 0 1 10 0 0 from above."""
    assert summing(5, 2, [[1, 2, 3, 4], [10, 20, 30, 40]]) == [[110, 99]]


def test_two_taps_look_right_and_down():
    assert summing(2, 1, [[1, 2, 3], [10, 20, 30]]) == [[33, 55, 33], [30, 50, 30]]


def test_halving_and_quartering_leave_pixels_out():
    x = torch.arange(32).reshape(1, 1, 4, 8).double()
    assert subsampled(x, 2)[0, 0].tolist() == [[0, 2, 4, 6], [16, 18, 20, 22]]
    assert subsampled(x, 4)[0, 0].tolist() == [[0, 4]]


def test_doubling_puts_means_between_pixels_and_repeats_the_last():
    x = torch.tensor([[[[0.0, 4, 6], [8, 12, 2]]]])
    assert doubled(x)[0, 0].tolist() == [
        [0, 2, 4, 5, 6, 6],
        [4, 6, 8, 6, 4, 4],
        [8, 10, 12, 7, 2, 2],
        [8, 10, 12, 7, 2, 2],
    ]


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 1, 5), (1, 2, 4, 3)])
def test_both_are_linear_interpolation_at_i_in_over_out(shape):
    """Output i from position i * in / out, the last pixel continued: TensorFlow 1 without aligned corners."""

    def interpolated(x, axis, size):
        at = torch.arange(size).double() * x.shape[axis] / size
        low = at.floor().long()
        high = (low + 1).clamp(max=x.shape[axis] - 1)
        share = (at - low).reshape([-1 if i == axis else 1 for i in range(4)])
        return x.index_select(axis, low) * (1 - share) + x.index_select(axis, high) * share

    x = torch.rand(shape, dtype=torch.float64)
    h, w = shape[-2:]
    assert_close(doubled(x), interpolated(interpolated(x, 2, 2 * h), 3, 2 * w))
    large = torch.rand(1, 1, 4 * h, 4 * w, dtype=torch.float64)
    assert_close(subsampled(large, 4), interpolated(interpolated(large, 2, h), 3, w))
