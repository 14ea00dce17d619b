"""Attributions judged by what replacing pixels does: closed forms, frames, and methods that must fail."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from untouched import untouched

from analysis import attribution_verdict
from analysis.attribution_table import attribution_table
from analysis.attribution_verdict import ELSEWHERE, check_attributions, check_layers
from analysis.attributions import METHODS, local_attribution
from analysis.layer_attributions import KINDS, layer_attribution, load_layers, save_layers
from evssm.geometry import HALF_TURN, TRANSPOSE
from evssm.models.stages import Stage

H, W, BOX = 20, 24, (6, 9, 4, 5)


class Weighted(nn.Module):
    """Every output value is the same weighted sum of the input."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.rand(H, W, dtype=torch.float64) ** 3)

    def forward(self, x):
        return (self.weights * x).sum(dim=(1, 2, 3), keepdim=True).expand_as(x)


class Turning(nn.Module):
    """Scales every pixel in a turned map, so that a region is made of its own cells alone."""

    def __init__(self, turn):
        super().__init__()
        self.turn, self.inner = turn, nn.Conv2d(3, 3, 1, bias=False).double()
        self.stages = (Stage("inner", 3, 1, turn),)

    def forward(self, x):
        return self.turn.inverse(self.inner(self.turn(x)))


def image():
    return torch.rand(1, 3, H, W, dtype=torch.float64) + 0.1


def test_of_a_linear_network_the_deletion_curve_is_the_cumulative_sum_of_the_map():
    net, x = Weighted(), image()
    one = local_attribution(net, x, BOX, method="gradient_x_input", reduce="sum")
    order = check_attributions(net, x, {"it": one})["it"].order
    shares = np.cumsum(np.sort(one.map.ravel())[::-1]) / one.map.sum()
    np.testing.assert_allclose(order.deletion[0, 0], shares[order.counts - 1], rtol=1e-9)
    np.testing.assert_allclose(order.insertion[0, 0], shares[order.counts - 1], rtol=1e-9)
    assert order.deletion.shape[0] == 1 + ELSEWHERE
    assert order.word == "shown, beyond distance"
    assert order.baseline == "black"


def test_the_table_says_of_each_map_what_its_checks_said():
    net, x = Weighted(), image()
    maps = {m: local_attribution(net, x, BOX, method=m, reduce="sum") for m in ("gradient_x_input", "occlusion")}
    verdicts = check_attributions(net, x, maps)
    verdicts["occlusion"] = replace(verdicts["occlusion"], order="order not judged: flat", weights="not judged either")
    exact, coarse = attribution_table(maps, verdicts).splitlines()[2:]
    order = verdicts["gradient_x_input"].order
    assert exact.startswith("| gradient x input | ")
    assert f"| {order.gain('nearest'):+.3f} | {order.gain('random'):+.3f} | shown, beyond distance | depends" in exact
    assert float(exact.split(" | ")[1].removesuffix(" %")) < 1e-6  # a linear network leaves no gap
    assert coarse.endswith("| - | - | not judged | not judged |")


def test_a_method_that_says_the_opposite_or_knows_no_weights_is_found_out(monkeypatch):
    net, x = Weighted(), image()

    def upside_down(*args, **options):
        found = local_attribution(*args, **options)
        object.__setattr__(found, "per_channel", 1 / (found.per_channel + 1e-9))
        return found

    def the_same_for_all(network, *args, **options):
        return local_attribution(net, *args, **options)

    options = {"method": "gradient_x_input", "reduce": "sum"}
    monkeypatch.setattr(attribution_verdict, "local_attribution", upside_down)
    wrong = check_attributions(net, x, {"it": upside_down(net, x, BOX, **options)})["it"]
    assert wrong.order.word == "contradicted"
    assert wrong.weights.word == "depends on the weights"
    monkeypatch.setattr(attribution_verdict, "local_attribution", the_same_for_all)
    blind = check_attributions(net, x, {"it": local_attribution(net, x, BOX, **options)})["it"]
    assert blind.weights.word == "ignores the weights"


def test_every_method_is_judged_as_it_was_made_and_the_network_is_left_alone():
    net, x = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Dropout(0.5)).double(), image()
    sharp = image()
    made = {"steps": 2, "window": 8, "sigma": 0.8, "reduce": "sum", "residual": "exclude"}
    found = {name: local_attribution(net, x, BOX, method=name, **made) for name in METHODS}
    found["from sharp"] = local_attribution(net, x, BOX, method="integrated_gradients", baseline=sharp, **made)
    done = []
    with untouched(net):
        verdicts = check_attributions(
            net, x, found, baseline=sharp, track=lambda task: lambda k, of: done.append((task, k, of))
        )
    assert {name: verdict.order.baseline for name, verdict in verdicts.items()} == {
        "lam": "blur",
        "integrated_gradients": "mean",
        "gradient_x_input": "black",
        "occlusion": "mean",
        "from sharp": "as given",
    }
    assert all(verdict.images == "one image" for verdict in verdicts.values())
    assert ("weights", 5, 5) in done  # a single module can be redrawn in one step only
    assert any(task == "order of lam" and k == of for task, k, of in done)
    lost = check_attributions(net, x, {"from sharp": found["from sharp"]})["from sharp"]
    assert lost.order.startswith("order not judged: the image that this map compares with")


def test_a_function_is_judged_except_for_weights():
    x = image()
    one = local_attribution(lambda z: 2 * z + z.roll(1, -1), x, BOX, method="gradient_x_input")
    verdict = check_attributions(lambda z: 2 * z + z.roll(1, -1), x, {"it": one})["it"]
    assert verdict.weights == "weights not judged: a plain function has no weights to redraw"
    assert verdict.order.verdict("random").word == "shown"


@pytest.mark.parametrize("turn", [TRANSPOSE, HALF_TURN])
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_layers_region_is_found_in_the_frame_that_it_is_stored_in(turn, kind):
    net, x = Turning(turn), image()
    found = layer_attribution(net, x, BOX, kind=kind, reduce="sum")
    with untouched(net):
        order = check_layers(net, x, found)["inner"].order
    # All that the region is made of are its own 4 x 5 cells, which nearest-first order therefore takes first.
    whole = order.counts >= 20
    np.testing.assert_allclose(order.deletion[:, 1, whole], order.deletion[:, 1, -1:].repeat(whole.sum(), 1))
    assert (order.deletion[:, 1, ~whole] < order.deletion[:, 1, -1:]).all()
    assert (order.deletion[:, 2, whole][:, 0] < order.deletion[:, 2, -1]).all()
    if kind != "activation":  # of which the map knows nothing of the region
        np.testing.assert_allclose(order.deletion[:, 0, whole], order.deletion[:, 1, whole])
        assert order.verdict("random").word == "shown"


def test_layer_maps_that_are_upside_down_or_know_no_weights_are_found_out(monkeypatch):
    net, x = Turning(TRANSPOSE), image()

    def upside_down(*args, **options):
        found = layer_attribution(*args, **options)
        for one in found.values():
            object.__setattr__(one, "per_channel", 1 / (np.abs(one.per_channel) + 1e-9))
        return found

    monkeypatch.setattr(attribution_verdict, "layer_attribution", upside_down)
    wrong = check_layers(net, x, upside_down(net, x, BOX, reduce="sum"))["inner"]
    assert wrong.order.word == "contradicted"
    blind = layer_attribution(net, x, BOX, reduce="sum")
    monkeypatch.setattr(attribution_verdict, "layer_attribution", lambda *_, **__: blind)
    assert check_layers(net, x, blind)["inner"].weights.word == "ignores the weights"


def test_layer_maps_come_back_from_their_file(tmp_path):
    found = layer_attribution(Turning(HALF_TURN), image(), BOX, reduce="sum")
    (back,) = load_layers(save_layers(tmp_path / "layers.npz", found)).values()
    np.testing.assert_array_equal(back.per_channel, found["inner"].per_channel)
    assert (back.box, back.stage, back.stride, back.kind) == (BOX, "inner", 1, "gradient_x_activation")
    assert back.provenance == found["inner"].provenance
    (tmp_path / "text.npz").write_text("nothing")
    with pytest.raises(ValueError, match="holds no layer maps that save_layers wrote: it is text that begins"):
        load_layers(tmp_path / "text.npz")
