"""A learned gain for every frequency of 8 x 8 patches: the frequency filter of EVSSM's and FFTformer's feed-forward
parts."""

from functools import cache

import torch
from torch import Tensor, nn

from evssm.fused import PATCH as PATCH
from evssm.fused import filter_patches
from evssm.precision import at_least_float32, without_autocast
from evssm.shapes import Image


class PatchSpectrum(nn.Module):
    """Each 8 x 8 patch (grid anchored at the top left), its Fourier coefficients multiplied by a gain per channel.

    Equal to `irfft2(rfft2(patch) * gain)`, computed in at least float32 and in a real basis of as many waves, which
    works on channels-last maps without reordering channels. Initially all ones, the identity (Kong et al. 2023, Sec.
    3.2; Kong et al. 2025, Sec. 3.1).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width, 1, 1, PATCH, PATCH // 2 + 1))

    def forward(self, x: Image) -> Image:
        _, _, h, w = x.shape
        if h % PATCH or w % PATCH:
            raise ValueError(f"a map of {h} x {w} has no whole 8 x 8 patches; pad both sides to multiples of 8")
        gain = at_least_float32(self.gain).flatten(1)
        with without_autocast(gain):
            gain = _shares(gain.dtype, gain.device) @ gain.mT
        return filter_patches(at_least_float32(x), gain).to(x.dtype)


@cache
def _shares(dtype: torch.dtype, device: torch.device) -> Tensor:
    """For each of the 64 frequencies, row by row, the weights with which the 40 entries of `gain` make its gain.

    A real patch's coefficients at (k, j) and (-k, -j) are conjugates, and the half spectrum has those with j <= 4. In
    columns 0 and 4 it has both of a pair, and a real result sees the mean of their gains.
    """
    half = PATCH // 2
    shares = torch.zeros(PATCH, PATCH, PATCH, half + 1)
    for k in range(PATCH):
        for j in range(PATCH):
            row, column = (k, j) if j <= half else (-k % PATCH, PATCH - j)
            partner = -row % PATCH if column in (0, half) else row
            shares[k, j, row, column] += 0.5
            shares[k, j, partner, column] += 0.5
    return shares.reshape(PATCH**2, -1).to(device, dtype)
