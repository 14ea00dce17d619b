"""Effects of knock-outs: nothing for what does nothing, the right sign for what is known, and PSNR as it is scored."""

import numpy as np
import pytest
import torch
from untouched import untouched

from analysis.activations import scanning_stages
from analysis.knock_out_table import knock_out_effects
from analysis.knock_outs import knocked_out
from evssm import build, psnr


def images(n=2, h=16, w=32):
    return torch.rand(n, 3, h, w, dtype=torch.float64)


def network(**overrides):
    torch.manual_seed(0)
    return build("evssm-compact", width=8, depths=(2, 1, 1), **overrides).double()


def test_each_line_is_what_the_network_does_without_that_part():
    net, x, sharp = network(), images(), images()
    with untouched(net):
        found = knock_out_effects(net, x, sharp, parts=["transpose"])
    first, *others = found.effects
    assert (first.part, first.psnr_change, first.output_change, first.r90_change) == ("none", 0, 0, 0)
    assert others[0].stage == "all"
    transposed = sum(stage.frame.transpose for stage in scanning_stages(net))
    assert others[0].modules == len(others) - 1 == transposed
    one = others[-1]
    with knocked_out(net, "transpose", one.stage), torch.no_grad():
        out = net(x)
    assert one.psnr == pytest.approx(float(psnr(out, sharp).mean()))
    assert one.output_change > 0


def test_modules_that_add_nothing_change_nothing_when_their_scan_is_gone():
    net = network()
    for block in (block for level in net.encoder for block in level):
        block.mixer.out_norm.weight.data.zero_()
        block.mixer.out_norm.bias.data.zero_()
    found = knock_out_effects(net, images(1), parts=["scan"]).effects
    idle = [e for e in found if e.stage.startswith("encoder")]
    assert len(idle) == 4
    assert {(e.output_change, e.r90_change, e.mass) for e in idle} == {(0, 0, 1)}
    assert all(e.output_change > 0 for e in found if e.stage.startswith("decoder"))
    assert all(np.isnan(e.psnr) for e in found)


def test_windows_off_widens_the_field():
    net = network(local=(16, 8, 4))
    _, free = knock_out_effects(net, images(1, 32, 32), parts=["window"], each=False).effects
    assert free.modules == 8
    assert free.output_change > 0


def test_the_selected_output_is_compared():
    net, x = network(), images(1)
    whole = knock_out_effects(net, x, parts=["scan"], each=False)
    forward = net.forward
    net.forward = lambda x: {"half": x[..., ::2, ::2], "full": forward(x)}
    chosen = knock_out_effects(net, x, parts=["scan"], each=False, select="full")
    assert chosen.rows()[1]["output_change"] == whole.rows()[1]["output_change"] > 0
    with pytest.raises(ValueError, match="say which is the image"):
        knock_out_effects(net, x, parts=["scan"], each=False)


def test_what_cannot_be_knocked_out_is_said():
    with pytest.raises(ValueError, match="none of scan"):
        knock_out_effects(build("nafnet-compact").double(), images(1))
    with pytest.raises(ValueError, match="sharp"):
        knock_out_effects(network(), images(2), images(1))
    with pytest.raises(ValueError, match='no "window"'):
        knock_out_effects(network(), images(1), parts=["window"])
