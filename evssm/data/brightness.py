"""Which of two kinds of blur, and which of two developments, images are: told by their brightness.

GoPro's `blur` averages frames as stored, `blur_gamma` averages their 2.2nd powers and takes the root (Nah et al., CVPR
2017, Sec. 3). Averaging keeps the mean of what is averaged: a blurred image has the mean value of its sharp partner
in the first case and the mean 2.2nd power in the second. RealBlur-R is in linear light and RealBlur-J has the
camera's tone curve (Rim et al., ECCV 2020), so the same scene is darker in R.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from evssm.data.findings import ERROR, WARNING, Finding, many, some
from evssm.data.sets import PairSet

POWER = 2.2
LEAST = 4
"""Images that a hint rests on, at least."""

DARK, BRIGHT = 0.08, 0.2
"""Mean values below and above which a set of RealBlur counts as R and as J; chosen here, not taken from the paper."""

ALIKE = 0.5
"""Correlation of the coarse picture under which two images are taken to show different scenes."""


@dataclass(frozen=True)
class Measured:
    """Mean values of a decoded pair; `shift`: how much brighter the blurred image is, `power_shift`: the same of the
    2.2nd power, in units of the value; `likeness`: correlation of the two at 8 x 8 pixels, `None` where one is flat;
    `same`: no pixel differs."""

    blurred: float
    sharp: float
    shift: float
    power_shift: float
    likeness: float | None
    same: bool


def measure(blurred: Float[Tensor, "3 h w"], sharp: Float[Tensor, "3 h w"]) -> Measured:
    """The mean values of a pair, in float64."""
    b, s = blurred.double(), sharp.double()
    mean = float(s.mean())
    slope = POWER * max(mean, 1e-3) ** (POWER - 1)  # of the power at the mean: brings both shifts to one unit
    power_shift = float((b**POWER).mean() - (s**POWER).mean()) / slope
    coarse = [rearrange(adaptive_avg_pool2d(x.mean(0, keepdim=True), 8), "1 h w -> (h w)") for x in (b, s)]
    flat = min(float(x.std()) for x in coarse) < 1 / 255
    likeness = None if flat else float(torch.corrcoef(torch.stack(coarse))[0, 1])
    return Measured(float(b.mean()), mean, float(b.mean()) - mean, power_shift, likeness, bool(torch.equal(b, s)))


def kind_of_blur(measured: Mapping[str, Measured]) -> tuple[str | None, str]:
    """`blur`, `blur_gamma` or `None` for undecided, and a line that says how it was decided.

    For each image: did averaging change the mean value less, or the mean 2.2nd power? Decided by three quarters of
    the images in which the two differ by more than a twentieth of a level of 255.
    """
    clear = [m for m in measured.values() if m.shift - m.power_shift > 0.05 / 255]
    if len(clear) < LEAST:
        return None, f"{len(clear)} clear images, {LEAST} needed"
    gamma = sum(abs(m.power_shift) < abs(m.shift) for m in clear)
    said = f"{gamma} of {len(clear)} images keep the mean 2.2nd power, as blur_gamma does, the others the mean value"
    share = gamma / len(clear)
    return "blur_gamma" if share >= 0.75 else "blur" if share <= 0.25 else None, said


def check_one(one: PairSet, measured: Mapping[str, Measured], known: Collection[str]) -> Iterator[Finding]:
    """Findings from the pixels of one set; `known` are pairs whose images were found to be one file already."""
    where = one.where
    same = [name for name, m in measured.items() if m.same and name not in known]
    if same:
        yield Finding(
            ERROR, where, f"blurred and sharp show the same pixels in {many(same, 'decoded pair')}: {some(same)}"
        )
    unlike = [
        f"{name} ({m.likeness:.2f})" for name, m in measured.items() if m.likeness is not None and m.likeness < ALIKE
    ]
    if unlike:
        severity = ERROR if 2 * len(unlike) > len(measured) else WARNING
        what = f"blurred and sharp seem to show different scenes in {len(unlike)} of {len(measured)} decoded pairs"
        yield Finding(severity, where, f"{what} (correlation under {ALIKE}): {some(unlike)}")
    if one.label.dataset == "GoPro":
        kind, how = kind_of_blur(measured)
        if kind not in (None, one.label.variant):
            yield Finding(WARNING, where, f"called {one.label.variant}, but by brightness it is {kind}: {how}")
    if one.label.dataset in ("RealBlur-J", "RealBlur-R") and len(measured) >= LEAST:
        level = sorted(m.sharp for m in measured.values())[len(measured) // 2]
        looks = "RealBlur-R" if level < DARK else "RealBlur-J" if level > BRIGHT else one.label.dataset
        if looks != one.label.dataset:
            what = f"by brightness it seems to be {looks}: the median image has a mean of {level:.3f}"
            yield Finding(WARNING, where, f"{what} (R under {DARK}, J over {BRIGHT}, thresholds of ours)")


def check_two(one: PairSet, other: PairSet, a: Mapping[str, Measured], b: Mapping[str, Measured]) -> Iterator[Finding]:
    """Findings about two sets of the same scenes: GoPro's two variants, RealBlur's J and R, where both were decoded."""
    places = {(one.label.variant, one.label.dataset): a, (other.label.variant, other.label.dataset): b}
    for dark, bright, alike in (
        (("blur", "GoPro"), ("blur_gamma", "GoPro"), one.label.folder == other.label.folder),
        (("blur", "RealBlur-R"), ("blur", "RealBlur-J"), one.label.split == other.label.split),
    ):
        if not alike or places.keys() != {dark, bright}:
            continue
        common = sorted(places[dark].keys() & places[bright].keys())
        wrong = [name for name in common if places[dark][name].blurred > places[bright][name].blurred]
        if len(common) >= LEAST and 2 * len(wrong) > len(common):
            lower, higher = (key[0] if key[1] == "GoPro" else key[1] for key in (dark, bright))
            what = f"{lower} is brighter than {higher} in {len(wrong)} of {len(common)} images: they are swapped"
            yield Finding(ERROR, f"{one.where} and {other.where}", what)
