"""Small mixers of every kind with inputs to them, and their scans by the definitions."""

import torch
import torch.nn.functional as F
from einops import rearrange

from analysis.module_rows import Site
from evssm.geometry import ANTI_TRANSPOSE, HALF_TURN, IDENTITY, TRANSPOSE
from evssm.layers import RMSNorm2d
from evssm.mamba2 import Mamba2
from evssm.mixer import SS2D
from evssm.scan_definition import selective_scan_definition
from evssm.ssd import ssd_recurrence

FOUR = (IDENTITY, TRANSPOSE, HALF_TURN, ANTI_TRANSPOSE)
H, W = 4, 6
MIXERS = {
    "one direction": lambda: SS2D(3, state=2),
    "four directions": lambda: SS2D(3, state=2, directions=FOUR),
    "kernel over the map": lambda: SS2D(3, state=2, kernel=(3, 3)),
    "wide kernel, four directions": lambda: SS2D(3, state=2, kernel=(5, 5), directions=FOUR),
    "mamba-2": lambda: Mamba2(4, state=3, head=2, expand=2, groups=2),
    "mamba-2, skips per channel": lambda: Mamba2(4, state=3, head=2, expand=2, d_per_channel=True),
}


def perturbed(mixer):
    """The mixer in float64 with every weight moved off its regular start, and strong steps, so that all matters."""
    mixer = mixer.double()
    for name, parameter in mixer.named_parameters():
        parameter.data += (0.5 if "dt" in name else 0.2) * torch.randn_like(parameter)
    return mixer


def a_site(kind, h=H, w=W, window=None):
    mixer = perturbed(MIXERS[kind]())
    norm = perturbed(RMSNorm2d(mixer.in_proj.in_features))
    x = torch.randn(1, mixer.in_proj.in_features, h, w, dtype=torch.float64)
    return Site("here", mixer.requires_grad_(False), norm.requires_grad_(False), x, window=window)


def whole(site):
    return site.branch((slice(None), slice(None)))


CELLS = [(0, 0), (1, 4), (3, 5)]


def scan_of_values(mixer, branch, a):
    """y as a map, of the values `a` before the convolution, by the definitions: (y, activation's slope)."""
    if isinstance(mixer, SS2D):
        v = F.conv2d(a[None], mixer.conv2d.weight, mixer.conv2d.bias, padding=1, groups=len(a))[0]
        slope = (F.gelu(v) / v).detach()
        y = 0
        for turn, s in branch.scans:
            u = turn(v * slope).flatten(1)
            out = selective_scan_definition(u[None], s.delta[None], s.A, s.B, s.C, s.D)[0]
            y = y + turn.inverse(out.unflatten(1, turn.size(H, W)))
        return y
    conv, d, past = mixer.conv1d, len(a), mixer.conv1d.kernel_size[0] - 1
    v = F.conv1d(F.pad(a.flatten(1), (past, 0))[None], conv.weight[:d], conv.bias[:d], groups=d)[0]
    u = v * torch.sigmoid(v).detach()
    ((_, s),) = branch.scans
    x = rearrange(u, "(k p) l -> 1 l k p", k=len(s.delta))
    B, C = (rearrange(t, "g n l -> 1 l g n") for t in (s.B, s.C))
    D = rearrange(s.D, "(k p) -> k p", k=len(s.delta))
    y = ssd_recurrence(x, s.delta.mT[None], s.A[:, 0], B, C, D)
    return rearrange(y, "1 (h w) k p -> (k p) h w", h=H)
