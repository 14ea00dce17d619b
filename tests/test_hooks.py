"""Recording and editing what modules return: in the right frame, and always undone."""

from itertools import product

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from evssm.geometry import D4, GROUP, IDENTITY, TRANSPOSE
from evssm.hooks import edit, record
from evssm.models import build
from evssm.models.stages import Stage


class Turn(nn.Module):
    """Every `stride`-th pixel of the map, turned: a feature map whose upright form is known."""

    def __init__(self, turn: D4, stride: int = 1) -> None:
        super().__init__()
        self.turn, self.stride = turn, stride

    def forward(self, x):
        return self.turn(x[..., :: self.stride, :: self.stride])


class Staged(nn.Module):
    """A network with one stage, which turns its map, and a module that is no stage."""

    def __init__(self, turn: D4 = IDENTITY, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(Turn(turn, stride), nn.Identity())
        self.stages = (Stage("body.0", 3, stride, turn, window=8),)

    def forward(self, x):
        return self.body(x)


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(3.0))

    def forward(self, x):
        return x * self.factor


def hooks_of(net):
    return [hook for module in net.modules() for hook in (*module._forward_hooks.values(), *module._backward_hooks)]


def small(**overrides):
    return build("evssm", **{"width": 8, "depths": (1, 2, 1), **overrides}).eval()


@pytest.mark.parametrize(("turn", "stride"), list(product(GROUP, (1, 2, 4))))
def test_upright_is_the_map_as_the_image_lies(turn, stride):
    net, x = Staged(turn, stride), torch.rand(2, 3, 24, 40)
    with record(net) as seen:
        net(x)
    found = seen["body.0"]
    assert torch.equal(found.upright(), x[..., ::stride, ::stride])
    assert found.upright().is_contiguous()
    assert torch.equal(found.tensor, turn(x[..., ::stride, ::stride]))
    assert (found.frame, found.stride, found.scale, found.window, found.channels) == (
        turn,
        stride,
        1 / stride,
        8,
        3,
    )


@pytest.mark.parametrize(("turn", "stride"), list(product(GROUP, (1, 4))))
def test_a_cell_holds_the_feature_of_its_pixel(turn, stride):
    net, x = Staged(turn, stride), torch.rand(1, 3, 8, 12)
    with record(net) as seen:
        net(x)
    found = seen["body.0"]
    for r, c in product(range(8), range(12)):
        i, j = found.cell((r, c))
        assert torch.equal(found.tensor[..., i, j], found.upright()[..., r // stride, c // stride])
    with pytest.raises(ValueError, match=r"\(8, 0\) is outside body.0, which covers 8 x 12 pixels"):
        found.cell((8, 0))
    with pytest.raises(ValueError, match="outside"):
        found.cell((0, -1))


def test_every_stage_of_a_network_lies_upright_at_its_stride():
    net, x = small(), torch.rand(1, 3, 32, 96)
    with record(net) as seen, torch.no_grad():
        net(x)
    assert list(seen) == [stage.name for stage in sorted(net.stages, key=lambda s: list(seen).index(s.name))]
    assert set(seen) == {stage.name for stage in net.stages}
    for stage in net.stages:
        assert seen[stage.name].upright().shape == (1, stage.channels, 32 // stage.stride, 96 // stage.stride)
    assert any(found.frame == TRANSPOSE for found in seen.values())


def test_recording_changes_no_number_and_is_undone():
    net, x = small(), torch.rand(1, 3, 32, 32)
    plain = net(x)
    for grad in (False, True):
        with record(net, grad=grad) as seen:
            assert hooks_of(net)
            assert torch.equal(net(x), plain)
        assert len(seen) == len(net.stages)
        assert not hooks_of(net)


@pytest.mark.parametrize("block", [record, lambda net: edit(net, {"body.*": torch.neg})])
def test_everything_is_undone_after_an_exception(block):
    net = Staged()
    with pytest.raises(TypeError), block(net):  # noqa: PT012 (the hooks must be seen at work)
        assert hooks_of(net)
        net(None)
    assert not hooks_of(net)


def test_a_second_call_is_appended():
    net, x = Staged(), torch.rand(1, 3, 16, 16)
    with record(net) as seen:
        for factor in (1, 2, 3):
            net(factor * x)
    assert list(seen) == ["body.0", "body.0#2", "body.0#3"]
    assert torch.equal(seen["body.0#3"].tensor, 3 * x)
    assert torch.equal(seen["body.0"].tensor, x)
    assert seen["body.0#3"].name == "body.0"


@pytest.mark.parametrize("grad", [False, True])
def test_later_work_in_place_spares_what_was_recorded(grad):
    net, x = nn.Sequential(Scale(), nn.ReLU(inplace=True)), torch.randn(1, 3, 16, 16)
    with record(net, "0", grad=grad) as seen:
        out = net(x)
    assert_close(seen["0"].tensor, 3 * x)
    assert (out >= 0).all()
    assert seen["0"].tensor.requires_grad == grad


def test_gradients_pass_through_what_was_recorded():
    net, x = nn.Sequential(Scale(), nn.ReLU(inplace=True), Scale()), torch.rand(5, requires_grad=True)
    with record(net, "0", grad=True) as seen:
        out = net(x)
    (to_feature,) = torch.autograd.grad(out.sum(), seen["0"].tensor, retain_graph=True)
    (to_input,) = torch.autograd.grad(seen["0"].tensor.sum(), x, retain_graph=True)
    (whole,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(to_feature, torch.full((5,), 3.0))
    assert torch.equal(to_input, torch.full((5,), 3.0))
    assert torch.equal(whole, torch.full((5,), 9.0))


def test_the_parts_of_a_tuple_are_recorded_one_by_one():
    class Halves(nn.Module):
        def forward(self, x):
            return *x.chunk(2, dim=1), None

    class Sums(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.halves = Halves()

        def forward(self, x):
            a, b, nothing = self.halves(x)
            assert nothing is None
            return a + b

    net, x = Sums(), torch.rand(1, 4, 8, 8)
    with record(net, "halves") as seen:
        net(x)
    assert list(seen) == ["halves[0]", "halves[1]"]
    assert torch.equal(seen["halves[1]"].tensor, x[:, 2:])


def test_an_output_that_is_no_tensor_is_refused_by_name():
    class Words(nn.Module):
        def forward(self, x):
            return {"x": x}

    net = nn.Sequential(Words())
    with record(net, "0"), pytest.raises(ValueError, match="0 returns a dict"):
        net(torch.rand(2))


def test_a_module_that_is_no_stage_has_no_upright_form():
    net = Staged()
    with record(net, "body.1") as seen:
        net(torch.rand(1, 3, 16, 16))
    assert seen["body.1"].frame is None
    assert seen["body.1"].scale is None
    with pytest.raises(ValueError, match="no stage"):
        seen["body.1"].upright()
    with pytest.raises(ValueError, match="no stage"):
        seen["body.1"].cell((0, 0))


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("encoder.1.0", {"encoder.1.0"}),
        ("encoder.1.?.mixer", {"encoder.1.0.mixer", "encoder.1.1.mixer"}),
        ("encoder_level1.block0.attn", {"encoder.0.0.mixer"}),
        ("encoder_level2.block?.ffn", {"encoder.1.0.ffn", "encoder.1.1.ffn"}),
        ("encoder_level1.block0", {"encoder.0.0"}),
        ("decoder_level3.block0", {"decoder.0.0"}),
        ("decoder_level1.block0", {"decoder.2.0"}),
        ("patch_embed", {"embed"}),
        ("down1_2", {"down.0"}),
        ("up3_2", {"up.0"}),
        ("encoder_level1.block0.norm1", {"encoder.0.0.norm1"}),
        ("encoder_level1.block0.attn.out_norm", {"encoder.0.0.mixer.out_norm"}),
    ],
)
def test_patterns_know_our_names_and_the_official_ones(pattern, names):
    net = small()
    with record(net, pattern) as seen, torch.no_grad():
        net(torch.rand(1, 3, 32, 32))
    assert set(seen) == names


def test_patterns_that_overlap_record_once():
    net = small()
    with record(net, "encoder.0.0", "encoder.?.0") as seen, torch.no_grad():
        net(torch.rand(1, 3, 32, 32))
    assert list(seen) == ["encoder.0.0", "encoder.1.0", "encoder.2.0"]


def test_a_name_that_matches_nothing_is_told_with_its_neighbours():
    net = small()
    with (
        pytest.raises(LookupError, match=r"'encoder\.0\.9'; near it: .*encoder\.0\.0"),
        record(net, "embed", "encoder.0.9"),
    ):
        pytest.fail("the block must not run")
    with (
        pytest.raises(LookupError, match=r"encoder_level1\.block0\.attn"),
        record(net, "encoder_level1.block0.atn"),
    ):
        pytest.fail("the block must not run")
    with pytest.raises(LookupError, match="does not say where"), record(nn.Sequential(nn.ReLU())):
        pytest.fail("the block must not run")
    with pytest.raises(LookupError, match="near it: nothing"), record(nn.ReLU(), "x"):
        pytest.fail("the block must not run")
    assert not hooks_of(net)


def test_a_list_of_modules_is_never_called_and_so_never_matches():
    with pytest.raises(LookupError), record(small(), "encoder.1"):
        pytest.fail("the block must not run")


def test_a_recording_says_what_it_has():
    net = Staged()
    with record(net) as seen:
        with pytest.raises(KeyError, match="run the network in the block"):
            seen["body.0"]
        net(torch.rand(1, 3, 16, 16))
    with pytest.raises(KeyError, match=r"near it: body\.0"):
        seen["body.1"]
    assert "body.1" not in seen
    assert len(seen) == 1


def test_an_edit_replaces_the_output_and_is_undone():
    net, x = nn.Sequential(Scale(), Scale()), torch.rand(4)
    with edit(net, {"0": torch.zeros_like}):
        assert torch.equal(net(x), torch.zeros(4))
    with edit(net, {"*": lambda y: y + 1}):
        assert_close(net(x), (3 * x + 1) * 3 + 1)
    assert_close(net(x), 9 * x)
    assert not hooks_of(net)


def test_a_record_inside_an_edit_sees_the_edited_values():
    net, x = Staged(), torch.rand(1, 3, 16, 16)
    with edit(net, {"body.0": torch.neg}), record(net) as inside:
        net(x)
    with record(net) as outside, edit(net, {"body.0": torch.neg}):
        net(x)
    assert torch.equal(inside["body.0"].tensor, -x)
    assert torch.equal(outside["body.0"].tensor, x)


def test_an_edit_by_official_name_reaches_the_output():
    net, x = small(), torch.rand(1, 3, 32, 32)
    with torch.no_grad(), edit(net, {"output": torch.zeros_like}):
        assert torch.equal(net(x), x)
    with torch.no_grad(), edit(net, {"decoder_level1.block0": torch.zeros_like}):
        assert torch.equal(net(x), x)


def test_an_edit_that_returns_nothing_is_refused():
    net = Staged()
    with edit(net, {"body.0": lambda y: None}), pytest.raises(ValueError, match=r"body\.0 returned nothing"):
        net(torch.rand(1, 3, 16, 16))
    with pytest.raises(LookupError, match=r"near it: body\.1, body\.0"), edit(net, {"body.7": torch.neg}):
        pytest.fail("the block must not run")
