"""Random selective scans, and the matrix of one written out, for tests at small lengths."""

import torch

from analysis.scan_rows import Scan


def random_scan(l, k=3, n=2, g=1, p=1, shared=False):
    """A scan with decays from mild to strong, in float64."""
    number = {"dtype": torch.float64}
    A = -torch.rand(k, 1 if shared else n, **number) * 4
    return Scan(
        torch.randn(k * p, l, **number),
        torch.rand(k, l, **number),
        A,
        torch.randn(g, n, l, **number),
        torch.randn(g, n, l, **number),
        torch.randn(k * p, **number),
    )


def matrix(scan, level):
    """The whole matrix, entry by entry from products of single decays: no sums of delta, no chunks."""
    k, l = scan.delta.shape
    B, C = (x.repeat_interleave(k // len(x), dim=0) for x in (scan.B, scan.C))  # k n l
    one_step = (scan.delta[:, None] * scan.A[:, :, None]).exp().expand_as(B)
    out = torch.zeros(k, l, l, dtype=torch.float64)
    for t in range(l):
        decay = torch.ones_like(B[..., 0])
        for s in range(t, -1, -1):
            entry = {"A0": C[..., t] * B[..., s], "A1": decay}.get(level, C[..., t] * decay * B[..., s]).sum(-1)
            out[:, t, s] = entry * scan.delta[:, s] if level in ("A3", "A4") else entry
            decay = decay * one_step[..., s]
    if level == "A4":
        out = out.repeat_interleave(len(scan.D) // k, dim=0)
        out += torch.diag_embed(scan.D[:, None].expand(-1, l))
    return out
