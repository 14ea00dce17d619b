"""Effects of blocks on a region: networks whose every effect is known, and what cannot be asked."""

from math import log10

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import nn

from analysis import interventions
from analysis.interventions import blocks_of, causal_effects, places
from evssm import build


def image(h=24, w=32):
    return torch.rand(3, h, w, dtype=torch.float64)


def psnr(y, truth, box):
    top, left, height, width = box
    gap = (y - truth)[:, top : top + height, left : left + width]
    return -10 * log10(float(gap.square().mean()))


class Shifted(nn.Module):
    """Every pixel is what stands 8 px further to the right, times a gain, across the border."""

    def __init__(self, gain=1.0):
        super().__init__()
        self.gain = gain

    def forward(self, x):
        return self.gain * x.roll(-8, dims=-1)


def test_only_the_block_that_a_network_reads_matters_and_by_what_can_be_worked_out():
    x, truth, box = image(), image(), (8, 8, 8, 8)
    found = causal_effects(Shifted(), x, truth, box, block=8, donors=torch.full_like(x, 0.25), looks=(2, 4))
    read = found.blocks.index((8, 16, 8, 8))
    changed = x.clone()
    changed[:, 8:16, 16:24] = 0.25
    expected = psnr(Shifted()(x), truth, box) - psnr(Shifted()(changed), truth, box)
    assert found.psnr == pytest.approx(psnr(Shifted()(x), truth, box))
    assert found.means.mean[read] == pytest.approx(expected)
    assert found.means.low[read] == pytest.approx(found.means.high[read])  # all patches are alike
    others = [i for i in range(len(found.blocks)) if i != read]
    assert (found.means.mean[others] == 0).all()
    assert (found.means.trials[others] == 2).all()
    assert {found.means.words()[i] for i in others} == {"neutral"}
    assert np.unique(found.map()[8:16, 16:24]).tolist() == [found.means.mean[read]]
    assert np.array_equal(found.decided(), found.map() != 0)


@pytest.mark.parametrize(("gain", "word"), [(1.0, "positive"), (-1.0, "negative")])
def test_content_that_helps_is_positive_and_content_that_harms_negative(gain, word):
    """The truth is what the network makes of the image, or its opposite: any other content is then the better one."""
    x = image() + 1
    truth = Shifted()(x)
    truth[:, 8:16, 8:16] += 0.01 * torch.rand(3, 8, 8)  # or nothing could be lost
    found = causal_effects(Shifted(gain), x, truth, (8, 8, 8, 8), block=8, donors=0 * x + 0.5)
    assert found.counts() == {word: 1, "neutral": len(found.blocks) - 1}
    (row,) = [row for row in found.rows() if row["word"] == word]
    assert (row["row"], row["column"], row["meets_region"]) == (8, 16, False)
    assert found.decided().sum() == 64
    assert found.peak() == abs(row["effect"]) > 0


def test_the_mean_over_patches_is_that_over_every_place_of_the_image():
    """The true mean, by exchanging for every patch there is, lies in as many intervals as they promise."""
    held, n = 0, 120
    for seed in range(n):
        x, truth, box = image(16, 24), image(16, 24), (8, 8, 8, 8)
        found = causal_effects(Shifted(), x, truth, box, block=8, looks=(8, 16), least=0, seed=seed)
        read = found.blocks.index((8, 16, 8, 8))
        here = places((16, 24), (8, 16, 8, 8), own=True)
        gap = [(x[:, r : r + 8, c : c + 8] - truth[:, 8:16, 8:16]).square().mean() for r, c in here]
        true = found.psnr - float((-10 * torch.stack(gap).log10()).mean())
        held += found.means.low[read] <= true <= found.means.high[read]
    assert held >= binom.ppf(1e-6, n, 0.95)


def test_a_network_that_ignores_the_image_shows_no_cause():
    class Blind(nn.Module):
        def forward(self, x):
            return torch.full_like(x, 0.5)

    found = causal_effects(Blind(), image(), image(), block=8)
    assert found.counts() == {"neutral": len(found.blocks)}
    assert not found.map().any()


def test_effects_that_only_wobble_stay_open(monkeypatch):
    """The check can fail: scores that know nothing of the image are not called causes."""
    noise = np.random.default_rng()
    monkeypatch.setattr(interventions, "_psnr", lambda y, truth, box: 30 + noise.standard_normal(len(y)))
    found = causal_effects(Shifted(), image(64, 64), image(64, 64), block=4)  # 256 blocks
    # All share the error of the score they are compared with; around it they have no effect.
    shared = np.median(found.means.mean)
    away = (found.means.low > shared + 0.3) | (found.means.high < shared - 0.3)
    assert away.sum() <= binom.ppf(1 - 1e-6, len(found.blocks), 0.05)


def test_patches_are_pieces_of_the_image_that_lie_elsewhere():
    block = (3, 5, 4, 2)
    found = {tuple(place) for place in places((9, 11), block, own=True)}
    expected = {
        (r, c)
        for r in range(9 - 4 + 1)
        for c in range(11 - 2 + 1)
        if not (set(range(r, r + 4)) & set(range(3, 7)) and set(range(c, c + 2)) & set(range(5, 7)))
    }
    assert found == expected
    assert len(places((9, 11), block, own=False)) == 6 * 10
    seen = []

    class Watch(nn.Module):
        def forward(self, x):
            seen.extend(x)
            return x

    x = image(8, 12)
    causal_effects(Watch(), x, image(8, 12), (0, 0, 4, 4), block=4, looks=(3,))
    pieces = x.unfold(1, 4, 1).unfold(2, 4, 1)
    for shown in seen[1:]:
        (r, c) = ((shown != x).any(0).nonzero().amin(0) // 4 * 4).tolist()
        patch = shown[:, r : r + 4, c : c + 4]
        assert (pieces == patch[:, None, None]).all(dim=(0, 3, 4)).any()
        outside = shown.clone()
        outside[:, r : r + 4, c : c + 4] = x[:, r : r + 4, c : c + 4]
        assert torch.equal(outside, x)


def test_blocks_cover_the_image_once():
    cover = np.zeros((13, 22), dtype=int)
    for top, left, height, width in blocks_of(13, 22, 8):
        cover[top : top + height, left : left + width] += 1
    assert (cover == 1).all()


def test_the_answer_is_the_same_whatever_the_batch_and_the_network_is_left_alone():
    torch.manual_seed(0)
    net = build("evssm-compact", width=8, depths=(1, 1, 1)).double().train()
    x, truth = image(32, 32), image(32, 32)
    state, seen = torch.get_rng_state(), []
    few = causal_effects(net, x, truth, block=16, looks=(2, 3), batch=1, progress=lambda *now: seen.append(now))
    many = causal_effects(net, x, truth, block=16, looks=(2, 3), batch=5)
    np.testing.assert_allclose(few.means.mean, many.means.mean, rtol=1e-6, atol=1e-9)
    assert torch.equal(state, torch.get_rng_state())
    assert all(module.training for module in net.modules())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert seen[-1] == (12, 12)
    assert few.provenance["trained"] is False
    assert few.provenance["block"] == 16
    other = causal_effects(net, x, truth, block=16, looks=(2, 3), seed=1)
    assert not np.allclose(few.means.mean, other.means.mean)


def test_what_cannot_be_asked_is_refused():
    x = image()
    for said, ask in {
        "belong together": lambda: causal_effects(Shifted(), x, image(8, 8)),
        "do not fit an image": lambda: causal_effects(Shifted(), x, x, block=25),
        "try smaller blocks": lambda: causal_effects(Shifted(), x[:, :16, :16], image(16, 16), block=16),
        "without any error": lambda: causal_effects(nn.Identity(), x, x, block=8),
        "two runs": lambda: causal_effects(lambda y: y + torch.rand_like(y), x, image(), block=8),
        "does not lie": lambda: causal_effects(Shifted(), x, image(), (20, 20, 8, 8), block=8),
    }.items():
        with pytest.raises(ValueError, match=said):
            ask()
