"""Our scan with mamba-ssm's arguments, against its recurrence written out."""

import pytest
import torch
import torch.nn.functional as F

from evssm.mamba_ssm import selective_scan_fn


def recurrence(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False):
    """What mamba-ssm documents (Gu & Dao 2023, Algorithm 2), one step at a time; B and C per channel, `b d n l`."""
    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    if delta_softplus:
        delta = F.softplus(delta)
    h, ys = torch.zeros(*u.shape[:2], A.shape[1], dtype=u.dtype), []
    for t in range(u.shape[-1]):
        h = torch.exp(delta[:, :, t, None] * A) * h + delta[:, :, t, None] * B[..., t] * u[:, :, t, None]
        ys.append((h * C[..., t]).sum(-1))
    y = torch.stack(ys, dim=-1)
    y = y if D is None else y + D[:, None] * u
    y = y if z is None else y * z * torch.sigmoid(z)
    return (y, h) if return_last_state else y


def inputs(b=2, d=4, n=3, l=7):
    rand = lambda *s: torch.randn(*s, dtype=torch.float64)  # noqa: E731
    return rand(b, d, l), rand(b, d, l), -rand(d, n).exp(), rand(d), rand(b, d, l), rand(d)


@pytest.mark.parametrize("kind", ["b n l", "b g n l", "d n"])
def test_it_is_the_recurrence_with_skip_gate_bias_softplus_and_last_state(kind):
    u, delta, A, D, z, bias = inputs()
    shape = {"b n l": (2, 3, 7), "b g n l": (2, 2, 3, 7), "d n": (4, 3)}[kind]
    B, C = torch.randn(2, *shape, dtype=torch.float64)
    per_channel = {
        "b n l": lambda x: x[:, None].expand(-1, 4, -1, -1),
        "b g n l": lambda x: x.repeat_interleave(2, dim=1),
        "d n": lambda x: x[None, :, :, None].expand(2, -1, -1, 7),
    }[kind]
    options = {"D": D, "z": z, "delta_bias": bias, "delta_softplus": True, "return_last_state": True}
    found = selective_scan_fn(u, delta, A, B, C, **options)
    expected = recurrence(u, delta, A, per_channel(B), per_channel(C), **options)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    alone = selective_scan_fn(u, delta.abs(), A, B, C)
    torch.testing.assert_close(alone, recurrence(u, delta.abs(), A, per_channel(B), per_channel(C)))


def test_complex_states_are_refused():
    u, delta, A, *_ = inputs()
    B = torch.randn(2, 3, 7, dtype=torch.float64)
    with pytest.raises(ValueError, match="real A, B and C"):
        selective_scan_fn(u, delta, A.to(torch.complex128), B, B)
