"""Parts switched off: what is left in closed form, modules without the part unchanged, and nothing left behind."""

import pytest
import torch
from torch.testing import assert_close
from untouched import untouched

from analysis.knock_outs import PARTS, knocked_out, parts_of, without_half_turn, without_transpose
from evssm import build, record
from evssm.geometry import ANTI_TRANSPOSE, GROUP, HALF_TURN, IDENTITY, TRANSPOSE
from evssm.mixer import SS2D

NETWORKS = ("evssm-compact", "evssm-four-direction-compact", "evssm-k3-compact", "evssm2-compact")


def network(name="evssm-compact", **overrides):
    net = build(name, **overrides).double()
    for parameter in net.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return net


def image(h=33, w=40):
    return torch.rand(1, 3, h, w, dtype=torch.float64)


def test_turns_lose_their_transposition_or_their_half_turn():
    assert [without_transpose(t) for t in (IDENTITY, TRANSPOSE, HALF_TURN, ANTI_TRANSPOSE)] == [
        *(IDENTITY, IDENTITY, HALF_TURN, HALF_TURN),
    ]
    assert [without_half_turn(t) for t in (IDENTITY, TRANSPOSE, HALF_TURN, ANTI_TRANSPOSE)] == [
        *(IDENTITY, TRANSPOSE, IDENTITY, TRANSPOSE),
    ]
    for turn in GROUP:
        assert not without_transpose(turn).transpose
        assert without_half_turn(without_half_turn(turn)) == without_half_turn(turn)


@pytest.mark.parametrize("name", NETWORKS)
def test_without_its_scan_a_mixer_adds_no_more_than_its_skip(name):
    net = network(name)
    mixer = net.encoder[0][0].mixer
    x = torch.randn(1, 16, 6, 7, dtype=torch.float64)
    before = mixer(x)
    with knocked_out(net, "scan", "encoder.0.0") as changed:
        assert changed == ["encoder.0.0.mixer"]
        without = mixer(x)
        scans = mixer.each_scan(x) if isinstance(mixer, SS2D) else [mixer.scan_inputs(x)]
        for inputs in scans:
            assert not inputs.C.any()
    assert not torch.allclose(before, without)
    assert_close(mixer(x), before, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["evssm-compact", "evssm-k3-compact", "evssm2-compact"])
def test_a_mixer_without_its_transposition_reads_the_map_as_one_that_was_never_transposed(name):
    net = network(name)
    block = net.encoder[0][0]
    assert block.turn == TRANSPOSE
    upright = torch.randn(1, 16, 9, 12, dtype=torch.float64)
    if isinstance(block.mixer, SS2D):  # its 3 x 3 kernels stay as they lie: let them be some that no turn changes
        for conv in (block.mixer.conv2d, block.mixer.x_conv):
            if len(conv.kernel_size) == 2:
                conv.weight.data.copy_(torch.ones(3, 3).double())
    with knocked_out(net, "transpose", "encoder.0.0.mixer"):
        found = TRANSPOSE.inverse(block.mixer(TRANSPOSE(upright).contiguous()))
    assert_close(found, block.mixer(upright), rtol=1e-9, atol=1e-9)


def test_four_directions_lose_their_transpositions_each():
    net = network("evssm-four-direction-compact")
    mixer = net.encoder[0][0].mixer
    with knocked_out(net, "transpose"):
        assert mixer.directions == (IDENTITY, IDENTITY, HALF_TURN, HALF_TURN)
    assert len(set(mixer.directions)) == 4


@pytest.mark.parametrize(("part", "idle"), [("transpose", "encoder.1.0"), ("flip", "encoder.0.0")])
def test_a_module_that_has_not_the_part_does_what_it_did(part, idle):
    net, x = network(), image()  # frames: T, TF | F, I | T, TF: encoder.1.0 is only turned by F, encoder.0.0 only by T
    want = net(x)
    with knocked_out(net, part, idle) as changed:
        assert changed == []
        assert torch.equal(net(x), want)
    with knocked_out(net, part) as changed:
        assert len(changed) in range(1, 12)
        assert not torch.allclose(net(x), want)
    assert torch.equal(net(x), want)


def test_windows_off_is_the_network_that_was_built_without():
    torch.manual_seed(0)
    local = build("evssm-compact", local=(16, 8, 4)).double()
    torch.manual_seed(0)
    whole = build("evssm-compact").double()
    x = image(32, 64)
    assert not torch.allclose(local(x), whole(x))
    with knocked_out(local, "window"):
        assert_close(local(x), whole(x))
        with record(local) as maps:
            local(x)
        assert {found.window for found in maps.values()} == {None}
    assert any(stage.window for stage in local.stages)


def test_windows_of_nafnets_attention_are_off_too():
    torch.manual_seed(0)
    local = build("nafnet-compact", local=(16, 16)).double()
    torch.manual_seed(0)
    whole = build("nafnet-compact").double()
    for net in (local, whole):
        for name, parameter in net.named_parameters():
            if "beta" in name or "gamma" in name:
                parameter.data.fill_(0.5)
    x = image(48, 48)
    assert not torch.allclose(local(x), whole(x))
    with knocked_out(local, "window"):
        assert torch.equal(local(x), whole(x))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", ["evssm-compact", "evssm2-compact"])
def test_everything_is_put_back_also_after_an_exception(part, name):
    net = build(name, local=(16, 8, 4))
    with untouched(net), pytest.raises(RuntimeError, match="on purpose"), knocked_out(net, part):
        raise RuntimeError("on purpose")


def test_the_check_of_what_is_left_behind_can_fail():
    net = build("evssm-compact")
    with pytest.raises(AssertionError, match="attributes"), untouched(net):
        net.encoder[0][0].mixer.directions = (HALF_TURN,)


def test_networks_say_which_parts_they_have():
    assert parts_of(build("evssm-compact")) == ["scan", "transpose", "flip"]
    assert parts_of(build("evssm-no-geot-compact")) == ["scan"]
    assert parts_of(build("nafnet-compact", local=True)) == ["window"]
    assert parts_of(torch.relu) == []
    with (
        pytest.raises(ValueError, match='no "transpose" to knock out'),
        knocked_out(build("evssm-no-geot-compact"), "transpose"),
    ):
        pass
    with pytest.raises(ValueError, match="choose from scan"), knocked_out(build("evssm-compact"), "ffn"):
        pass
    with pytest.raises(LookupError, match="matches"), knocked_out(build("evssm-compact"), "scan", "nowhere"):
        pass
