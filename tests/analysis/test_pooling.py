"""Fields of several seeds as one."""

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
    assert pooled.provenance["pooled"] == ["0", "1", "2"]


def test_a_field_pooled_with_itself_is_itself():
    one = field("0")
    assert np.allclose(ERF.pooled([one, one]).per_image, one.per_image)


@pytest.mark.parametrize("change", [{"images": ["a", "c"]}, {"estimator": "abs"}, {"trained": False}, {"size": [9, 8]}])
def test_fields_that_asked_something_else_are_not_pooled(change):
    with pytest.raises(ValueError, match=f"differ in {next(iter(change))}"):
        ERF.pooled([field("0"), field("1", **change)])
