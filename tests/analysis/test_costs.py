from contextlib import suppress
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry, register_flop_formula

import evssm.fused
from analysis import cost
from analysis.costs import PUBLISHED, in_units
from analysis.operations import ATTENTION, CONVOLUTION, DEPTHWISE, FFT, KINDS, LINEAR, OTHER, SCAN
from evssm import MODELS, build
from evssm.geometry import ANTI_TRANSPOSE, HALF_TURN, IDENTITY, TRANSPOSE
from evssm.mamba2 import Mamba2
from evssm.mixer import SS2D
from evssm.models.evssm import Block
from evssm.models.nafnet import ChannelAttention
from evssm.spectral import PatchSpectrum

COMPACT = [name for name in MODELS if name.endswith("-compact")]
"""The small versions stand for the large ones, whose kinds of layers they share."""

DIFFERENT = [
    f"{name}-compact"
    for name in ("evssm", "evssm-four-direction", "evssm-k3", "evssm2", "nafnet", "mimo-unet", "restormer", "fftformer")
]
"""One of each kind; Stripformer's attention grows faster than the area and has a test of its own."""


def channels(name):
    return 6 if "dual-pixel" in name else 3


def counted(net, size, **options):
    """The kinds that occur, and their operations."""
    found = cost(net, size, **options)
    assert found.unknown == {}
    return {kind: count for kind, count in found.flops.items() if count}


@cache
def of_network(name, size=64, batch=1):
    return cost(build(name), size, channels=channels(name), batch=batch)


def one_block(width, mixer=SS2D):
    return Block(width, TRANSPOSE, mixer, None, 3, False)


# --- by hand ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [16, 48])
def test_a_block_of_evssm_counts_what_its_layers_say(width):
    h, w, n, rank = 24, 40, 8, -(-width // 16)
    pixels, inner, hidden, selection = h * w, 2 * width, 3 * width, rank + 2 * n
    projections = 2 * inner * width + selection * inner + inner * rank + width * inner
    ffn = width * 2 * hidden + hidden * width
    found = cost(one_block(width), (h, w), channels=width)
    assert found.flops == dict.fromkeys(KINDS, 0) | {
        LINEAR: 2 * pixels * (projections + ffn),
        DEPTHWISE: 2 * pixels * (9 * inner + 7 * selection + 9 * 2 * hidden),
        SCAN: pixels * inner * (9 * n + 1),
        FFT: width * pixels // 64 * 2 * (5 * 64 * 6 // 2),  # two real transforms of 64 numbers, log2 64 = 6
    }
    assert found.exact_scan == pixels * inner * (7 * n + 2 + 1 + 3)
    assert found.unknown == {}


def test_a_block_has_the_parameters_that_its_layers_say():
    formula = {48: 43_640, 96: 157_424, 192: 595_808}  # EVSSM's blocks, from the shapes of its official state dict
    assert {width: cost(one_block(width), 8, channels=width).parameters for width in formula} == formula


def test_convolutions_cost_their_kernel_at_every_place():
    h, w = 12, 20
    assert counted(nn.Conv2d(3, 8, 5, padding=2), (h, w)) == {CONVOLUTION: 2 * h * w * 8 * 3 * 25}
    assert counted(nn.Conv2d(3, 8, 3, stride=2, padding=1), (h, w)) == {CONVOLUTION: 2 * h * w // 4 * 8 * 3 * 9}
    assert counted(nn.Conv2d(4, 8, 3, padding=1, groups=2), (h, w), channels=4) == {CONVOLUTION: 2 * h * w * 8 * 2 * 9}
    assert counted(nn.Conv2d(4, 8, 3, padding=1, groups=4), (h, w), channels=4) == {DEPTHWISE: 2 * h * w * 8 * 9}
    assert counted(nn.ConvTranspose2d(3, 8, 4, stride=2, padding=1), (h, w)) == {CONVOLUTION: 2 * h * w * 3 * 8 * 16}
    assert counted(nn.Conv2d(3, 8, 1), (h, w)) == {LINEAR: 2 * h * w * 3 * 8}


@pytest.mark.parametrize(
    "apply", [lambda x, m: F.linear(x, m), lambda x, m: x @ m.mT, lambda x, m: torch.einsum("bchw,vw->bchv", x, m)]
)
def test_a_product_with_a_parameter_is_linear_however_it_is_written(apply):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.matrix = nn.Parameter(torch.rand(7, 20))

        def forward(self, x):
            return apply(x, 2 * self.matrix)

    assert counted(Net(), (12, 20)) == {LINEAR: 2 * 3 * 12 * 20 * 7}


def attend(x):
    tokens = x.flatten(2).mT
    return torch.softmax(tokens @ tokens.mT, -1) @ tokens


def attend_in_pieces(x):
    """The same products, of tensors that were filled piece by piece."""
    tokens = torch.zeros(len(x), x[0, 0].numel(), x.shape[1], device=x.device)
    tokens[:, :, 0] = x[:, 0].flatten(1)
    weights = torch.empty(len(x), tokens.shape[1], tokens.shape[1], device=x.device)
    torch.bmm(tokens, tokens.mT, out=weights)
    return weights @ tokens


def attend_at_once(x):
    tokens = x.flatten(2).mT
    return F.scaled_dot_product_attention(tokens, tokens, tokens)


@pytest.mark.parametrize("function", [attend, attend_in_pieces, attend_at_once])
@pytest.mark.parametrize("kind", ["function", "module"])
def test_products_of_two_things_that_follow_from_the_image_are_attention(function, kind):
    class Net(nn.Module):
        def forward(self, x):
            return function(x)

    found = cost(Net() if kind == "module" else function, (4, 6), channels=5)
    assert {kind: count for kind, count in found.flops.items() if count} == {ATTENTION: 2 * 2 * 24 * 24 * 5}
    assert found.ran == ("traced" if kind == "module" else "run")


def test_transforms_cost_5_n_log2_n_and_real_ones_half():
    size = {"size": (16, 32), "channels": 5, "batch": 2}
    n, several = 16 * 32, 2 * 5
    real, whole = several * 5 * n * 9 // 2, several * 5 * n * 9
    assert counted(lambda x: torch.fft.irfft2(torch.fft.rfft2(x)), **size) == {FFT: 2 * real}
    assert counted(lambda x: torch.fft.ifft2(torch.fft.fft2(x + 0j)), **size) == {FFT: 2 * whole}
    assert counted(lambda x: torch.fft.rfft(x), **size) == {FFT: several * 16 * 5 * 32 * 5 // 2}


def test_the_patch_filter_costs_what_its_two_transforms_cost_written_out():
    def written_out(x):
        patches = x.unflatten(2, (-1, 8)).unflatten(4, (-1, 8)).transpose(3, 4)
        return torch.fft.irfft2(torch.fft.rfft2(patches))

    assert counted(PatchSpectrum(5), (16, 24), channels=5) == counted(written_out, (16, 24), channels=5)


def test_complex_products_take_four_real_ones():
    found = counted(lambda x: (x + 1j) @ (x + 1j).mT, (6, 8))
    assert found == {ATTENTION: 4 * 2 * 3 * 6 * 6 * 8}


def test_a_scan_in_four_directions_costs_four_scans():
    four = SS2D(16, directions=(IDENTITY, TRANSPOSE, HALF_TURN, ANTI_TRANSPOSE))
    one, four = (cost(mixer, (8, 12), channels=16) for mixer in (SS2D(16), four))
    assert four.flops[SCAN] == 4 * one.flops[SCAN]
    assert four.exact_scan == 4 * one.exact_scan


def test_the_scan_of_mamba2_costs_its_matrix_products_or_its_recurrence():
    pixels, inner, n, heads, chunk = 64, 32, 16, 2, 32
    found = cost(Mamba2(16, state=n, head=16, expand=2), (8, 8), channels=16)
    assert found.flops[SCAN] == 2 * pixels * (chunk * (n + inner) + 2 * inner * n)
    assert found.exact_scan == pixels * (inner * (5 * n - 1) + heads)


# --- laws -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMPACT)
def test_every_network_is_counted_whole_and_its_kinds_sum_to_the_total(name):
    found = of_network(name)
    assert found.unknown == {}
    assert found.ran == "traced"
    assert found.total == sum(found.flops.values()) == 2 * sum(found.macs.values()) > 0
    assert found.flops[OTHER] == 0
    assert found.conv_linear_macs == sum(found.macs[kind] for kind in (CONVOLUTION, DEPTHWISE, LINEAR))
    assert (found.flops[SCAN] > 0) == name.startswith("evssm")


@pytest.mark.parametrize("name", [name for name in DIFFERENT if name != "nafnet-compact"])
def test_four_times_the_area_costs_four_times_as_much(name):
    once, four = of_network(name), of_network(name, 128)
    # Not to the last multiply-add for Mamba-2, whose causal convolution projects some zeros before the first pixel.
    tolerance = 1e-3 if name.startswith("evssm2") else 0
    assert four.flops == pytest.approx({kind: 4 * count for kind, count in once.flops.items()}, rel=tolerance, abs=0)


def test_nafnets_linear_layer_on_one_mean_of_the_map_does_not_grow():
    once, four = of_network("nafnet-compact"), of_network("nafnet-compact", 128)
    net = build("nafnet-compact")
    means = sum(module.mix.weight.numel() for module in net.modules() if isinstance(module, ChannelAttention))
    assert four.total == 4 * (once.total - 2 * means) + 2 * means


def test_attention_within_strips_grows_faster_than_the_area():
    once, four = of_network("stripformer-compact"), of_network("stripformer-compact", 128)
    assert four.flops[LINEAR] == 4 * once.flops[LINEAR]
    assert four.flops[ATTENTION] == 8 * once.flops[ATTENTION]


@pytest.mark.parametrize("name", [*DIFFERENT, "stripformer-compact"])
def test_a_batch_costs_as_much_as_its_images(name):
    one, three = of_network(name), of_network(name, batch=3)
    assert three.flops == {kind: 3 * count for kind, count in one.flops.items()}
    assert three.exact_scan == 3 * one.exact_scan


@pytest.mark.parametrize("name", [*DIFFERENT, "stripformer-compact"])
def test_shapes_alone_give_the_counts_of_a_network_that_runs(name):
    net, traced = build(name), of_network(name)
    run = cost(lambda x: net(x), 64, channels=channels(name))
    assert run.ran == "run"
    assert traced.flops == run.flops
    assert traced.exact_scan == run.exact_scan
    assert traced.readings() == run.readings()
    assert run.unknown == {}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_number_format_does_not_matter(dtype):
    net = build("evssm-compact")
    assert cost(net, 32) == cost(net.to(dtype), 32)


def test_the_operators_cost_what_their_definitions_cost(monkeypatch):
    name = "restormer-compact"
    monkeypatch.setattr(evssm.fused, "served", lambda *tensors: False)
    assert cost(build(name), 64).flops == of_network(name).flops


@pytest.mark.parametrize("name", ["nafnet-compact", "mimo-unet-plus-compact"])
def test_torchs_own_counter_agrees_where_it_knows_every_operator(name):
    net = build(name).eval()
    with FlopCounterMode(display=False) as theirs, torch.no_grad():
        net(torch.rand(1, 3, 32, 48))
    assert cost(net, (32, 48)).total == theirs.get_total_flops() > 0


def test_windows_cost_what_their_overlap_adds():
    whole, local = (cost(build("evssm-compact", local=edges), 64) for edges in (False, (48, 24, 12)))
    assert local.flops[SCAN] / whole.flops[SCAN] == pytest.approx(4 * 48**2 / 64**2)
    assert local.flops[FFT] == whole.flops[FFT]


# --- published numbers ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def released():
    with torch.device("meta"):
        return build("evssm")


def test_evssm_has_the_published_parameters_and_its_published_count_is_fvcores(released):
    found = cost(released, 256)
    assert found.parameters == 17_129_472
    assert found.conv_linear_macs == pytest.approx(125.499e9, abs=1e6)
    way, number, deviation = found.nearest_reading(PUBLISHED["evssm"])
    assert way.startswith("as fvcore counts")
    assert number == pytest.approx(126.296e9, abs=1e6)
    assert abs(deviation) < 0.003
    assert "published 126.000 G: nearest is 126.296 G (+0.2%), as fvcore" in found.table(PUBLISHED["evssm"])
    quoted = 7.893e9  # for 64 x 64, by the authors of C2SSM
    assert cost(released, 64).nearest_reading(quoted)[:2] == (way, pytest.approx(quoted, abs=1e6))


def test_the_nearest_reading_depends_on_the_number(released):
    found = cost(released, 256)
    for way, number in found.readings().items():
        assert found.nearest_reading(number) == (way, number, 0)
    with pytest.raises(ValueError, match="positive, not 0"):
        found.nearest_reading(0)


# --- other people's networks ------------------------------------------------------------------------------------------


@pytest.fixture
def strange():
    """An operator that nobody has a formula for, without a shape rule: networks with it have to run."""
    library = torch.library.Library("evssm_test", "FRAGMENT")
    library.define("strange(Tensor x) -> Tensor")
    library.impl("strange", lambda x: x.flip(0) @ x.mT, "CPU")
    yield torch.ops.evssm_test.strange
    flop_registry.pop(torch.ops.evssm_test.strange, None)
    library._destroy()


def strange_net(operator):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x):
            return operator(operator(self.conv(x)))

    return Net()


def test_an_operator_without_a_formula_is_listed_not_skipped(strange):
    found = cost(strange_net(strange), 16)
    assert found.unknown == {"evssm_test::strange": 2}
    assert found.ran == "run"
    assert found.flops[CONVOLUTION] == found.total == 2 * 256 * 4 * 27
    assert "NOT COUNTED, so that the total is a lower bound: evssm_test::strange (2)" in found.table()
    assert "NOT COUNTED" not in cost(nn.Conv2d(3, 4, 3), 16).table()


def test_an_operator_with_a_registered_formula_is_counted(strange):
    register_flop_formula(strange)(lambda x, *_, out_shape=None, **__: 100 * x[0])
    found = cost(strange_net(strange), 16, batch=3)
    assert found.unknown == {}
    assert found.flops[OTHER] == 2 * 300


def test_an_operator_of_torch_without_a_formula_is_listed_too():
    found = cost(lambda x: torch.cdist(x, x), 8)
    assert list(found.unknown) == ["aten::_cdist_forward"]


def test_shared_parameters_count_once_and_their_work_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(3, 3, 3, padding=1)
            self.second = nn.Conv2d(3, 3, 3, padding=1, bias=False)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(self.first(x))

    found = cost(Twice(), 8)
    assert found.parameters == 3 * 27 + 3
    assert found.total == 2 * 2 * 64 * 3 * 27


def test_a_network_that_looks_at_values_is_run():
    class Looks(nn.Conv2d):
        def forward(self, x):
            return super().forward(x) if float(x.mean()) >= 0 else x

    found = cost(Looks(3, 3, 1), 8)
    assert found.ran == "run"
    assert found.total == 2 * 64 * 9


def test_a_network_is_left_as_it_was():
    net = build("nafnet-compact").train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    random = torch.get_rng_state()
    cost(net, 32)
    assert net.training
    assert all(module.training for module in net.modules())
    assert all(parameter.requires_grad and not parameter.is_meta for parameter in net.parameters())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    with torch.no_grad():
        assert net(torch.rand(1, 3, 32, 32)).isfinite().all()


def test_what_a_network_keeps_from_a_pass_is_not_left_in_it():
    class Keeps(nn.Conv2d):
        kept: torch.Tensor | None = None

        def forward(self, x):
            self.kept = torch.ones_like(x) if self.kept is None else self.kept
            return super().forward(x * self.kept)

    net = Keeps(3, 3, 1)
    assert cost(net, 8).ran == "traced"
    assert net.kept is None


def test_counting_leaves_nothing_behind_that_breaks_a_later_pass():
    net = build("evssm-compact")
    with suppress(ValueError):
        cost(net, 32, channels=4)
    cost(net, 32)
    with torch.no_grad():
        assert net(torch.rand(1, 3, 32, 32)).isfinite().all()


def test_what_does_not_fit_says_so():
    with pytest.raises(ValueError, match=r"NAFNet fails on an input 1 x 4 x 32 x 32|nafnet-compact fails on an input"):
        cost(build("nafnet-compact"), 32, channels=4)
    with pytest.raises(ValueError, match=r"1 or more, not \(1, 3, 0, 8\)"):
        cost(nn.Identity(), (0, 8))


def test_a_function_has_no_parameters_that_one_could_count():
    found = cost(lambda x: F.conv2d(x, torch.rand(3, 3, 1, 1)), 8)
    assert found.parameters is None
    assert "parameters unknown" in found.table()


def test_the_table_and_the_values_say_the_same():
    found = cost(build("evssm-compact"), 64)
    table, values = found.table(), found.as_dict()
    for kind, count in values["flops"].items():
        assert (in_units(count) in table) == (count > 0) or count == 0, kind
    assert in_units(values["total_flops"]) in table
    assert in_units(values["conv_linear_macs"]) in table
    assert in_units(values["exact_scan_flops"]) in table
    assert values["convention"] in table
    assert "382,016 parameters" in table


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (999, "999"), (1234, "1.234 k"), (5.6e9, "5.600 G"), (2e12, "2.000 T")]
)
def test_numbers_have_the_prefix_that_suits_them(count, text):
    assert in_units(count) == text


def test_a_network_of_two_views_is_counted_on_two():
    net = build("ifan-dual-pixel-compact")
    assert cost(net, 32).shape == (1, 6, 32, 32)
    assert cost(net, 32).flops == cost(net, 32, channels=6).flops
    assert cost(build("ifan-compact"), 32).shape == (1, 3, 32, 32)
    with pytest.raises(ValueError, match="channels and sides are 1 or more"):
        cost(net, 32, channels=0)
