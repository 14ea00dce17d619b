"""Fields of several seeds, or over several lists of images, as one."""

import numpy as np
import pytest

from analysis.field import ERF

ASKED = {"images": ["a", "b"], "queries": [[4, 4]], "estimator": "rss", "residual": "exclude", "size": [9, 9],
         "trained": True}  # fmt: skip


def field(weights, **changes):
    maps = np.random.default_rng().random((2, 9, 9))
    mass = maps.sum(axis=(1, 2))
    return ERF(maps / mass[:, None, None], mass, np.ones((9, 9)), {**ASKED, "weights": weights, **changes})


def test_the_map_of_pooled_fields_is_the_mean_of_their_maps():
    fields = [field(str(k)) for k in range(3)]
    pooled = ERF.pooled(fields)
    assert np.allclose(pooled.map, np.mean([f.map for f in fields], axis=0))
    assert np.allclose(pooled.mass, np.mean([f.mass for f in fields], axis=0))
    assert pooled.provenance == fields[0].provenance | {"pooled": ["0", "1", "2"]}


def test_a_field_pooled_with_itself_is_itself():
    one = field("0")
    assert np.allclose(ERF.pooled([one, one]).per_image, one.per_image)


@pytest.mark.parametrize("change", [{"images": ["a", "c"]}, {"estimator": "abs"}, {"trained": False}, {"size": [9, 8]}])
def test_fields_that_asked_something_else_are_not_pooled(change):
    with pytest.raises(ValueError, match=f"differ in {next(iter(change))}"):
        ERF.pooled([field("0"), field("1", **change)])


def part(images, share, seconds, **changes):
    return field("0", images=images, share_outside_frame=share, seconds=seconds, **changes)


def test_joined_fields_hold_the_images_of_all_in_their_order():
    one, other = part(["a", "b"], 0.25, 1.0004), part(["c", "d"], 0.75, 1.0004, note="what only this one says")
    whole = ERF.joined([one, other])
    np.testing.assert_array_equal(whole.per_image, [*one.per_image, *other.per_image])
    np.testing.assert_array_equal(whole.mass, [*one.mass, *other.mass])
    assert whole.provenance == one.provenance | {
        "images": ["a", "b", "c", "d"],
        "share_outside_frame": 0.5,
        "seconds": 2.001,  # to a thousandth
    }


@pytest.mark.parametrize("change", [{"weights": "1"}, {"estimator": "abs"}, {"queries": [[4, 5]]}])
def test_fields_of_something_else_are_not_joined(change):
    with pytest.raises(ValueError, match=f"join fields that differ in {next(iter(change))};"):
        ERF.joined([field("0"), field(**{"weights": "0", **change})])
