"""EVSSM in bfloat16 under autocast, as on a GPU: scans, norms and patch spectra stay in float32."""

from contextlib import nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from evssm import fused
from evssm.layers import LayerNorm2d, RMSNorm2d
from evssm.models import build
from evssm.scan import SCAN
from evssm.scan_selected import SCAN_STEPS
from evssm.spectral import PatchSpectrum


def halved(on=True):
    return torch.autocast("cpu", dtype=torch.bfloat16) if on else nullcontext()


@pytest.fixture(params=[True, False], ids=["kernels", "definitions"])
def kernels(request, monkeypatch):
    """Whether float32 goes by our kernels; a GPU has none of them."""
    if not request.param:
        monkeypatch.setattr(fused, "_kernels_exist", lambda: False)


class Seen(TorchDispatchMode):
    """The types of the tensors that scans run on."""

    def __init__(self):
        super().__init__()
        self.scans = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (SCAN, SCAN_STEPS):
            self.scans += [x.dtype for x in args if isinstance(x, torch.Tensor)]
        return function(*args, **(kwargs or {}))


def test_the_network_restores_the_same_image_and_scans_in_single_precision(kernels):
    net, x = build("evssm", width=16, depths=(1, 2, 1)), torch.rand(1, 3, 32, 40)
    with torch.no_grad(), Seen() as seen:
        exact = net(x)
        count = len(seen.scans)
        with halved():
            found = net(x)
    assert 0 < count == len(seen.scans) - count
    assert set(seen.scans) == {torch.float32}
    error = float((found - exact).norm() / (exact - x).norm())
    assert 1e-5 < error < 0.05  # the first says that there was something halved at all


def test_gradients_of_a_training_step_point_the_same_way(kernels):
    net, x = build("evssm", width=8, depths=(1, 1, 1)), torch.rand(1, 3, 32, 32)
    directions = []
    for half in (False, True):
        net.zero_grad()
        with halved(half):
            (net(x) - x.flip(-1)).square().mean().backward()
        assert all(p.grad.dtype == torch.float32 for p in net.parameters())
        directions.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    assert directions[1].isfinite().all()
    assert float(torch.cosine_similarity(*directions, dim=0)) > 0.99


@pytest.mark.parametrize("norm", [RMSNorm2d, LayerNorm2d])
@pytest.mark.parametrize("autocast", [True, False])
def test_a_norm_is_rounded_once(norm, autocast):
    module, x = norm(48), (1 + torch.randn(1, 48, 16, 16)).bfloat16()
    with halved(autocast):
        found = module(x)
    exact = module.double()(x.double()).bfloat16()
    assert found.dtype == torch.bfloat16
    assert (found == exact).double().mean() > 0.99


def test_a_patch_s_spectrum_is_rounded_once(kernels):
    module, x = PatchSpectrum(6), torch.randn(1, 6, 16, 24).bfloat16()
    with torch.no_grad():
        module.gain += torch.randn_like(module.gain)
    with halved():
        found = module(x)
    exact = module.double()(x.double()).bfloat16()
    assert found.dtype == torch.bfloat16
    assert (found == exact).double().mean() > 0.99
