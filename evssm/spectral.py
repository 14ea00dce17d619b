"""A learned gain for every frequency of 8 x 8 patches: the frequency filter of EVSSM's and FFTformer's feed-forward
parts."""

from functools import cache
from math import pi

import torch
from einops import rearrange
from torch import Tensor, nn

from evssm.layers import at_least_float32
from evssm.shapes import Image

PATCH = 8


class PatchSpectrum(nn.Module):
    """Each 8 x 8 patch (grid anchored at the top left), its Fourier coefficients multiplied by a gain per channel.
    per channel.

    Equal to `irfft2(rfft2(patch) * gain)`, computed in a real Fourier basis: cosine and sine of one frequency share
    their gain, so the filter is two products with one 64 x 64 matrix and works on channels-last maps without
    reordering channels. Initially all ones, the identity (Kong et al. 2023, Sec. 3.2; Kong et al. 2025, Sec. 3.1).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width, 1, 1, PATCH, PATCH // 2 + 1))

    def forward(self, x: Image) -> Image:
        b, _, h, w = x.shape
        if h % PATCH or w % PATCH:
            raise ValueError(
                f"a map of {h} x {w} has no whole 8 x 8 patches; pad both sides to multiples of 8"
            )
        wide = at_least_float32(x)
        basis, owner = _real_fourier_basis(wide.dtype, wide.device)
        gain = at_least_float32(self.gain).flatten(1).mT[owner].mean(dim=1)
        patches = rearrange(wide, "b c (i p) (j q) -> (b i j) (p q) c", p=PATCH, q=PATCH)
        patches = basis.mT @ ((basis @ patches) * gain)
        filtered = rearrange(patches, "(b i j) (p q) c -> b (i p) (j q) c", b=b, i=h // PATCH, p=PATCH)
        return rearrange(filtered, "b h w c -> b c h w").to(x.dtype)


@cache
def _real_fourier_basis(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """The orthonormal cosines and sines of an 8 x 8 patch, one per row, and the two entries of `gain` that own each.

    In columns 0 and 4 of the half spectrum the rows k and 8 - k are conjugate partners, and a real result sees the
    mean of their gains; elsewhere both owners are the same entry.
    """
    n = torch.arange(PATCH, dtype=torch.float64)
    rows, owners = [], []
    for row in range(PATCH):
        for column in range(PATCH // 2 + 1):
            own_partner = column in (0, PATCH // 2)
            if own_partner and row > PATCH // 2:
                continue  # its partner 8 - row has been here
            phase = 2 * pi * (row * n[:, None] + column * n) / PATCH
            partner = -row % PATCH if own_partner else row
            for wave in (phase.cos(), phase.sin()):
                if wave.norm() > 1e-6:  # the sine of a frequency that is its own partner vanishes
                    rows.append((wave / wave.norm()).flatten())
                    owners.append([row * (PATCH // 2 + 1) + column, partner * (PATCH // 2 + 1) + column])
    return torch.stack(rows).to(device, dtype), torch.tensor(owners, device=device)
