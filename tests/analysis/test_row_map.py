"""A row as a value: what its numbers say of its maps, in closed form."""

from dataclasses import replace

import numpy as np
import pytest

from analysis.row_map import NORMALISATIONS, REDUCTIONS, ScanRow, normalised, reduced


def a_row(shape=(4, 5), **changes):
    """A row of numbers drawn anew, of an image that it covers exactly."""
    h, w = shape
    made = {
        **{"map": np.random.default_rng().random(shape) + 0.1, "per_channel": None, "support": np.ones(shape, bool)},
        **{"stage": "a.mixer", "kind": "row", "level": "A3", "reduction": "abs", "normalisation": "none"},
        **{"query": (0, 0), "cell": (0, 0), "stride": 1, "size": (h, w)},
        **{"rebuilt": np.ones(3), "output": np.ones(3), "provenance": {}},
    }
    return ScanRow(**{**made, **changes})


def test_the_check_is_the_relative_error_and_zeros_count_whole():
    row = a_row(rebuilt=np.array([3.0, 4.0]), output=np.array([6.0, 8.0]))
    assert row.check() == 0.5
    assert replace(row, output=np.zeros(2)).check() == 5
    assert replace(row, output=row.rebuilt).check() == 0


def test_channels_become_one_map():
    lines = np.array([[[3.0, 1.0]], [[-4.0, -3.0]]])
    assert reduced(lines, "abs").tolist() == [[3.5, 2.0]]
    assert reduced(lines, "signed").tolist() == [[-0.5, -1.0]]
    assert reduced(lines, "rms").tolist() == [[12.5**0.5, 5**0.5]]
    # Two channels share a line: their weights count by their mean, 2 and 0.25.
    assert reduced(lines, "output", np.array([1.0, 3.0, 0.0, 0.5])).tolist() == [[(2 * 3 + 1) / 2, (2 + 0.75) / 2]]
    for reduction in set(REDUCTIONS) - {"output"}:
        assert np.array_equal(reduced(lines, reduction), reduced(lines, reduction, np.ones(2)))
    with pytest.raises(ValueError, match="choose from abs, rms, signed, output"):
        reduced(lines, "mean")
    with pytest.raises(ValueError, match="levels A0-A5"):
        reduced(lines, "output")


def test_a_map_is_divided_by_its_largest_or_its_sum_or_nothing():
    field = np.array([[1.0, -4.0]])
    assert normalised(field, "none").tolist() == [[1.0, -4.0]]
    assert normalised(field, "max").tolist() == [[0.25, -1.0]]
    assert normalised(field, "sum").tolist() == [[0.2, -0.8]]
    for normalisation in NORMALISATIONS:
        assert normalised(np.zeros((1, 2)), normalisation).tolist() == [[0.0, 0.0]]
    with pytest.raises(ValueError, match="choose from none, max, sum"):
        normalised(field, "l2")


@pytest.mark.parametrize(
    ("size", "stride", "inside"), [((4, 5), 1, (4, 5)), ((17, 20), 8, (3, 3)), ((16, 9), 8, (2, 2))]
)
def test_a_map_holds_its_image_to_the_last_pixel_begun(size, stride, inside):
    row = a_row(size=size, stride=stride)
    assert row.map[row.inside].shape == inside
    assert row.inside == (slice(0, inside[0]), slice(0, inside[1]))
    assert row.share_inside() == pytest.approx(row.map[: inside[0], : inside[1]].sum() / row.map.sum())


def test_shares_are_of_absolute_values_and_nothing_lies_inside():
    signed = np.array([[1.0, -1.0, 6.0]])
    assert a_row((1, 3), map=signed, size=(1, 2)).share_inside() == 0.25
    assert a_row(map=np.zeros((4, 5)), size=(2, 2)).share_inside() == 1


def test_only_weights_known_to_be_untrained_are_called_so():
    assert a_row(provenance={"trained": False}).untrained
    assert not any(a_row(provenance=made).untrained for made in ({"trained": True}, {"trained": None}, {}))


def test_a_row_says_what_it_is_and_cannot_be_changed():
    row = a_row(query=(30, 40), stride=2)
    assert repr(row) == "ScanRow(a.mixer, A3 row of (30, 40), 4 x 5 px, stride 2)"
    for part in (row.map, row.support, row.rebuilt, row.output):
        with pytest.raises(ValueError, match="read-only"):
            part.flat[0] = 1
