"""Embedded pairs: a function of seed and index, and no test photograph in training."""

import hashlib
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from evssm.data.embedded import SOFTNESS, EmbeddedCrops, embedded_test
from evssm.data.kernels import from_light, to_light
from evssm.data.light import photograph_light, recoloured
from evssm.data.pairs import each
from evssm.data.shake import straight_path
from evssm.photographs import MORE_PHOTOGRAPHS, PHOTOGRAPHS, SPLITS, photograph, photographs_of

RNG = np.random.default_rng()


def crops(split="train", size=32, **settings):
    return EmbeddedCrops(split, size, seed=settings.pop("seed", 7), extent=settings.pop("extent", (2, 12)), **settings)


def digest(i):
    """Of item `i`, in this process or another; leaves and noise included."""
    pair = crops(leaves=0.5, noise=(0.0, 0.02))[i]
    return hashlib.sha256(pair.blurred.numpy().tobytes() + pair.sharp.numpy().tobytes() + pair.name.encode()).digest()


def test_every_photograph_is_in_one_split():
    everything = [name for split in SPLITS for name in photographs_of(split)]
    assert sorted(everything) == sorted([*PHOTOGRAPHS, *MORE_PHOTOGRAPHS])
    assert len(set(everything)) == len(everything)
    files = [entry.file for entry in [*PHOTOGRAPHS.values(), *MORE_PHOTOGRAPHS.values()]]
    assert len(set(files)) == len(files)
    assert all(photographs_of(split) for split in SPLITS)
    assert all(entry.credit and entry.licence for entry in MORE_PHOTOGRAPHS.values())


def test_every_photograph_is_there():
    for name in MORE_PHOTOGRAPHS:
        assert min(photograph(name).shape[1:]) >= 300


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_opens_its_own_photographs_only(split, monkeypatch):
    opened = set()
    monkeypatch.setattr("evssm.data.light.photograph", lambda name: opened.add(name) or photograph(name))
    photograph_light.cache_clear()
    for i in range(30):
        crops(split, leaves=0.3 if split == "train" else 0)[i]
    assert opened == set(photographs_of(split))


def test_a_test_crop_is_in_a_test_photograph_and_in_no_training_photograph():
    def lies_in(crop, name):
        whole = photograph(name)
        places = (whole[:, :-31, :-31] == crop[:, :1, :1]).all(0).nonzero().tolist()
        return any(torch.equal(whole[:, r : r + 32, c : c + 32], crop) for r, c in places)

    pair = crops("test")[int(RNG.integers(1000))]
    name = pair.name.split("-")[0]
    assert lies_in(pair.sharp, name)
    assert not any(lies_in(pair.sharp, other) for other in photographs_of("train"))


def test_an_item_depends_on_seed_and_index_alone():
    one, other = crops(), crops()
    forwards, backwards = [one[i] for i in range(6)], [other[i] for i in reversed(range(6))][::-1]
    assert all(torch.equal(a.blurred, b.blurred) and a.name == b.name for a, b in zip(forwards, backwards, strict=True))
    assert len({pair.blurred.numpy().tobytes() for pair in forwards}) == 6
    assert not torch.equal(one[0].blurred, crops(seed=8)[0].blurred)


def test_an_item_is_the_same_in_another_process():
    with get_context("spawn").Pool(1) as pool:
        assert pool.map(digest, range(4)) == [digest(i) for i in range(4)]


@pytest.mark.parametrize("split", SPLITS)
def test_crops_hold_what_an_8_bit_file_can_hold(split):
    pair = crops(split, noise=(0.0, 0.02))[3]
    for x in pair[:2]:
        assert x.shape == (3, 32, 32)
        assert x.dtype == torch.float32
        assert torch.equal((x * 255).round() / 255, x)
        assert 0 <= x.min() <= x.max() <= 1


def test_a_point_for_a_path_blurs_nothing():
    for i in range(8):
        pair = crops(extent=(0, 0))[i]
        assert (pair.blurred - pair.sharp).abs().max() < 1.01 / 255


def test_blurred_and_sharp_are_aligned():
    """Over many crops the blurred image resembles the sharp one most where it lies."""
    pairs = [crops(size=64, extent=(6, 10))[i] for i in range(24)]
    blurred, sharp = (torch.stack([pair[k] for pair in pairs]) for k in (0, 1))

    def error(rows, columns):
        return (blurred[..., 4:-4, 4:-4] - sharp.roll((rows, columns), (2, 3))[..., 4:-4, 4:-4]).square().mean()

    assert all(error(0, 0) < error(*step) for step in ((1, 0), (-1, 0), (0, 1), (0, -1)))


def test_straight_paths_are_even_motions_of_their_extent_in_many_directions():
    test = embedded_test(extents=(9, 20), straight=True)
    paths = [test.path(i) for i in range(len(test))]
    assert [np.hypot(*path.drift[:2]) for path in paths] == pytest.approx([9, 20] * (len(test) // 2))
    assert all(path.modes.size == 0 and path.drift[2] == 0 for path in paths)
    assert len({round(float(np.arctan2(*path.drift[:2])), 6) for path in paths}) == len(test) // 2
    assert test[0].name == f"{photographs_of('test')[0]}-straight-9px-0"


def test_straight_crops_draw_no_other_path(monkeypatch):
    free = crops(size=48, extent=(12, 12))[3]
    drawn = []
    monkeypatch.setattr("evssm.data.embedded.random_path", None)
    monkeypatch.setattr(
        "evssm.data.embedded.straight_path", lambda *given: drawn.append(given) or straight_path(*given)
    )
    pair = crops(size=48, extent=(12, 12), straight=True)[3]
    assert drawn[0][0] == 12
    assert 0 <= drawn[0][1] < 180
    assert not torch.equal(pair.blurred, free.blurred)


def test_the_noise_is_as_asked():
    clean, noisy = crops(size=64)[5], crops(size=64, noise=(0.02, 0.02))[5]
    assert torch.equal(clean.sharp, noisy.sharp)
    inner = (clean.blurred > 0.15) & (clean.blurred < 0.85)
    assert_close((noisy.blurred - clean.blurred)[inner].std().item(), 0.02, rtol=0.1, atol=0)


def test_training_sees_soft_photographs_and_testing_does_not(monkeypatch):
    seen = []
    monkeypatch.setattr("evssm.data.embedded.photograph_light", lambda *given: seen.append(given) or light_of(*given))
    light_of = photograph_light
    for i in range(30):
        crops()[i]
    softness = [given[2] for given in seen if len(given) == 3]
    assert set(softness) == set(SOFTNESS)
    seen.clear()
    crops("test")[0]
    assert all(len(given) == 2 for given in seen)


def test_a_soft_photograph_keeps_its_light():
    sharp, soft = photograph_light("rocket", 1.0), photograph_light("rocket", 1.0, 1.5)
    assert_close(soft.mean(), sharp.mean(), rtol=1e-3, atol=0)
    assert np.abs(np.diff(soft, axis=1)).mean() < 0.9 * np.abs(np.diff(sharp, axis=1)).mean()


def test_recolouring_commutes_with_averaging():
    light = RNG.random((2, 9, 9, 3)).astype(np.float32)
    seed = int(RNG.integers(1 << 30))
    one, two = (recoloured(x, np.random.default_rng(seed)) for x in (light, light.mean(0)))
    assert_close(one.mean(0), two, rtol=1e-5, atol=1e-6)


def test_leaves_are_drawn_with_their_share():
    names = [crops(leaves=0.5)[i].name.split("-")[0] for i in range(40)]
    assert 8 <= names.count("leaves") <= 32
    assert crops(leaves=1)[0].name.startswith("leaves-")


def test_the_test_set_is_the_same_every_time_and_shows_the_files_own_pixels():
    test = embedded_test(extents=(3,), paths=2)
    assert len(test) == 2 * len(photographs_of("test"))
    for one, two in zip(each(test), each(embedded_test(extents=(3,), paths=2)), strict=True):
        assert torch.equal(one.blurred, two.blurred)
        name = one.name.split("-")[0]
        m = test.around[name]
        assert torch.equal(one.sharp, photograph(name)[:, m:-m, m:-m])
    assert len({pair.name for pair in each(test)}) == len(test)


def test_the_test_set_is_the_one_that_scores_were_published_on():
    """Paths as `embedded_test().path(i).drift` and PSNR in dB as first made; a change of either needs a new name."""
    test = embedded_test()
    assert test.items[0] == ("coffee", 6, 0)
    assert_close(test.path(0).drift, np.array([1.3011255820900587, 2.9678756185138826, 0.0035879054443386117]))
    assert_close(test.path(11).drift, np.array([25.750528286728873, -10.44647250166942, 0.02108501994225463]))
    assert test.around == {"coffee": 27, "chelsea": 26, "hopper": 28}
    for i, decibels in ((0, 25.334), (6, 23.972)):
        mean_square = (test[i].blurred.double() - test[i].sharp).square().mean().item()
        assert_close(-10 * np.log10(mean_square), decibels, rtol=0, atol=0.01)


def test_a_larger_extent_is_a_larger_blur_along_the_same_path():
    test = embedded_test(extents=(4, 8, 16))
    errors = [(pair.blurred - pair.sharp).square().mean().item() for pair in each(test)]
    for k in range(0, 9, 3):
        assert errors[k] < errors[k + 1] < errors[k + 2]
        assert_close(test.path(k + 1).drift, 2 * test.path(k).drift)


def test_the_path_of_a_test_image_is_the_one_it_was_blurred_along():
    test = embedded_test(extents=(10,))
    pair, kernel = test[0], test.path(0).kernel(0, 0)
    h, w = pair.sharp.shape[1:]
    r = len(kernel) // 2
    m = test.around["coffee"]
    whole = to_light(photograph("coffee").double())
    row, column = (whole.shape[1] - 1) // 2, (whole.shape[2] - 1) // 2  # half a pixel from the middle
    around = whole[:, row - r : row + r + 1, column - r : column + r + 1]
    expected = from_light((around * kernel.flip(0, 1)).sum((1, 2)))
    assert (h, w) == (whole.shape[1] - 2 * m, whole.shape[2] - 2 * m)
    assert_close(pair.blurred[:, row - m, column - m].double(), expected, rtol=0, atol=2 / 255)


def refused():
    return {
        "a split": (lambda: crops("tset"), "no split is called 'tset'; .* train, validation, test"),
        "an extent": (lambda: crops(extent=(9, 3)), "extent is to lie between 9 and 3"),
        "noise": (lambda: crops(noise=(-1, 0)), "noise is to lie"),
        "a size": (lambda: crops(size=2000), "no photograph of the train split"),
        "leaves in a test": (lambda: crops("test", leaves=0.1), "dead leaves in test"),
        "a seed": (lambda: crops(seed=-1), "seed -1"),
        "a test of nothing": (lambda: embedded_test(extents=()), "make no test"),
        "a test of too much": (lambda: embedded_test(extents=(400,)), "leaves nothing of"),
    }


@pytest.mark.parametrize("what", refused())
def test_what_cannot_be_is_refused(what):
    call, message = refused()[what]
    with pytest.raises(ValueError, match=message):
        call()


def test_items_outside_are_an_index_error():
    with pytest.raises(IndexError):
        crops(length=5)[5]
    with pytest.raises(IndexError):
        embedded_test()[-1]
    assert len(list(each(crops(length=3)))) == 3
