from functools import partial
from itertools import pairwise

import pytest
import torch
from backends import needs_numba
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from evssm.memory import counted_memory, estimate_memory
from evssm.models import build
from evssm.windows import in_windows, merge_windows, split_windows, window_origins


@pytest.mark.parametrize(
    ("length", "edge", "origins"),  # what the released code returns, contracts/evssm_windows.json
    [
        (720, 384, (0, 336)),
        (1280, 384, (0, 299, 598, 896)),
        (320, 96, (0, 75, 150, 224)),
        (101, 96, (0, 5)),
        (36, 384, (0,)),
    ],
)
def test_the_origins_are_the_released_ones(length, edge, origins):
    assert window_origins(length, edge) == origins


@given(length=st.integers(1, 400), edge=st.integers(1, 100))
def test_windows_cover_every_pixel_and_stay_inside(length, edge):
    origins, edge = window_origins(length, edge), min(edge, length)
    assert origins[0] == 0
    assert origins[-1] + edge == length
    assert all(0 < later - earlier <= edge for earlier, later in pairwise(origins))


@given(h=st.integers(1, 40), w=st.integers(1, 40), edge=st.integers(1, 20), b=st.integers(1, 3))
def test_merging_undoes_splitting(h, w, edge, b):
    x = torch.randn(b, 2, h, w, dtype=torch.float64)
    assert_close(merge_windows(split_windows(x, edge), edge, h, w), x)


def test_overlaps_are_plain_means():
    parts = torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)])
    assert merge_windows(parts, 2, 2, 3).tolist() == [[[[0.0, 0.5, 1.0], [0.0, 0.5, 1.0]]]]


@given(h=st.integers(1, 40), w=st.integers(1, 40), edge=st.integers(1, 20), b=st.integers(1, 3))
def test_windows_one_by_one_are_windows_at_once_bit_for_bit(h, w, edge, b):
    x, seen = torch.randn(b, 2, h, w), []

    def mix(part):
        seen.append(part.shape)
        return part.cumsum(-1) * part[..., :1, :1]

    at_once = in_windows(mix, x, edge)
    with torch.no_grad():
        one_by_one = in_windows(mix, x, edge)
    assert torch.equal(one_by_one, at_once)
    streamed = seen[1:]
    assert len(streamed) == len(window_origins(h, edge)) * len(window_origins(w, edge))
    assert all(shape == (b, 2, min(h, edge), min(w, edge)) for shape in streamed)


@pytest.mark.parametrize("name", ["evssm-compact", "evssm-four-direction-compact", "evssm2-compact"])
def test_a_network_s_windows_are_the_same_with_and_without_gradients(name):
    net, x = build(name, local=(16, 8, 4)).requires_grad_(False), torch.rand(2, 3, 37, 53)
    with_gradients = net(x)
    with torch.no_grad():
        assert torch.equal(net(x), with_gradients)


@needs_numba
def test_deblurring_in_windows_takes_less_memory_than_whole_maps():
    """Taken all at once the windows took more, for they overlap."""
    whole, local = (estimate_memory(build("evssm-compact", local=local), 128, 192) for local in (False, True))
    assert local < whole


@needs_numba
@pytest.mark.slow
def test_a_frame_of_gopro_fits_into_a_small_machine_and_memory_grows_with_pixels_alone():
    """Full EVSSM, counted without computing: deblurring in the released windows, and a receptive field."""
    net = build("evssm", local=True).requires_grad_(False)
    net.checkpoint = True

    def field(h, w):
        x = torch.rand(1, 3, h, w, requires_grad=True)
        torch.autograd.grad(net(x)[0, 0, h // 2, w // 2], x)

    field(16, 16)  # compiles
    frame, quarter = (counted_memory(partial(field, *size)) for size in ((720, 1280), (360, 640)))
    assert quarter < frame < 1.1 * 4 * quarter
    assert frame < 8 * 2**30
    assert estimate_memory(net, 720, 1280) < 1.3 * 2**30
