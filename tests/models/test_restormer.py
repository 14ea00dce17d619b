"""Restormer against the released network's numbers, a slower second derivation of its attention, and laws.

`golden/restormer.npz` holds, for each run of the official code (github.com/swz30/Restormer, df766d5), about
48 numbers of each array: `every_nth` of the float64 output and receptive field, strided by 4, and of the
float32 maps and gradient, strided as below. Weights and images follow from `weight_rule`.
"""

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close
from weight_rule import ruled_image, ruled_state

from evssm.models.restormer import NAMING, BiasFreeNorm2d, Block, ChannelAttention, Restormer, infer
from evssm.naming import official_keys

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "restormer.npz")
TINY = {"width": 8, "depths": (1, 2, 1, 1), "refinement": 1}

OUTPUTS = {  # constructor arguments, image seed, image shape
    "restormer_48x80": ({}, 31, (1, 3, 48, 80)),
    "restormer_dualpixel_64x64": ({"dual_pixel": True}, 32, (1, 6, 64, 64)),
    "restormer_biasfree_tiny_32x40": (
        {"width": 16, "depths": (1, 1, 1, 1), "refinement": 1, "norm": "bias_free"},
        33,
        (1, 3, 32, 40),
    ),
}
MAPS = {  # official name, our module, channel stride, pixel stride
    "encoder_level1": ("encoder.0", 6, 4),
    "latent": ("latent", 48, 1),
    "decoder_level3": ("decoder.0", 24, 1),
    "decoder_level2": ("decoder.1", 12, 2),
    "refinement": ("refinement", 12, 4),
}


def every_nth(x: Tensor) -> np.ndarray:
    flat = x.detach().numpy().reshape(-1)
    return flat[:: flat.size // 48 | 1]


def distance(found: Tensor, name: str) -> float:
    """Relative L2 distance between the sampled `found` and the stored numbers."""
    wanted = GOLDEN[name].astype(np.float64)
    return float(np.linalg.norm(every_nth(found) - wanted) / np.linalg.norm(wanted))


def official_shapes(net: nn.Module) -> dict[str, tuple[int, ...]]:
    own = net.state_dict()
    return {key: tuple(own[ours].shape) for key, ours in official_keys(net, NAMING).items()}


def ruled(**arguments) -> Restormer:
    """The network with the golden weights, in float64."""
    net = Restormer(**arguments)
    keys, state = official_keys(net, NAMING), ruled_state(official_shapes(net))
    net.load_state_dict({keys[official]: value for official, value in state.items()})
    return net.double().eval()


def small(**arguments) -> Restormer:
    """A float64 network of random weights with all its levels."""
    return Restormer(**{**TINY, **arguments}).double().requires_grad_(False)


def views(net: Restormer) -> int:
    return net.embed.in_channels


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_output_is_the_released_networks(name):
    arguments, seed, shape = OUTPUTS[name]
    net, image = ruled(**arguments), ruled_image(seed, *shape)
    with torch.no_grad():
        assert distance(net(image.double())[..., ::4, ::4], f"{name}/out_f64") < 1e-10
        assert distance(net.float()(image)[..., ::4, ::4], f"{name}/out_f64") < 2e-5


def test_maps_in_between_and_the_receptive_field_are_the_released_networks():
    net, maps = ruled(), {}
    for official, (ours, *_) in MAPS.items():
        net.get_submodule(ours).register_forward_hook(lambda _m, _x, y, key=official: maps.update({key: y}))
    image = ruled_image(30, 1, 3, 64, 64).double().requires_grad_()
    restored = net.requires_grad_(False)(image)
    assert distance(restored[..., ::4, ::4], "restormer_64x64/out_f64") < 1e-10
    for official, (_, channels, pixels) in MAPS.items():
        sampled = maps[official][:, ::channels, ::pixels, ::pixels]
        assert distance(sampled, f"restormer_64x64/mid:{official}") < 2e-5, official
    (gradient,) = torch.autograd.grad(restored[0, :, 32, 32].sum(), image)
    assert distance(gradient[0].abs().sum(dim=0)[::4, ::4], "restormer_64x64/erf_f64") < 1e-10
    assert distance(gradient[0, :, ::2, ::2], "restormer_64x64/grad") < 5e-5


@pytest.mark.parametrize(
    ("dual_pixel", "tensors", "parameters", "digest"),
    [
        (False, 494, 26_126_644, "abbd305dedc3ab8bf2341202b7f97e3af0c8d6c063a5352a8361b4d2ba0fb071"),
        (True, 495, 26_132_548, "bf99bc012b38c9805ba18ebe9fbc3fcbd96ef939e71e12e6820ec7538b0213c6"),
    ],
)
def test_the_official_state_dict_has_our_tensors_in_its_order(dual_pixel, tensors, parameters, digest):
    """The digest is of the released checkpoint's keys and shapes, a line `key:[sizes]` each."""
    with torch.device("meta"):
        shapes = official_shapes(Restormer(dual_pixel=dual_pixel))
    assert len(shapes) == tensors
    assert sum(map(np.prod, shapes.values())) == parameters
    assert sha256("\n".join(f"{k}:{list(s)}" for k, s in shapes.items()).encode()).hexdigest() == digest
    assert infer(shapes) == {
        "width": 48,
        "depths": (4, 6, 6, 8),
        "refinement": 4,
        "heads": (1, 2, 4, 8),
        "ffn_expansion": 2.66,
        "bias": False,
        "norm": "with_bias",
        "dual_pixel": dual_pixel,
    }


@pytest.mark.parametrize("norm", ["with_bias", "bias_free"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dual_pixel", [False, True])
def test_the_arguments_follow_from_an_official_state_dict(norm, bias, dual_pixel):
    arguments = {
        "width": 12,
        "depths": (2, 1, 3, 1),
        "refinement": 2,
        "heads": (3, 1, 2, 6),
        "ffn_expansion": 2.0,
    }
    arguments |= {"norm": norm, "bias": bias, "dual_pixel": dual_pixel}
    with torch.device("meta"):
        assert infer(official_shapes(Restormer(**arguments))) == arguments


@pytest.mark.parametrize("ffn_expansion", [1.1, 2.66, 2.7, 3, 10 / 3, 4.01])
@pytest.mark.parametrize("width", [2, 14, 48, 98])
def test_the_inferred_expansion_gives_the_same_shapes(ffn_expansion, width):
    arguments = {**TINY, "heads": (1, 1, 1, 1), "width": width}
    with torch.device("meta"):
        shapes = official_shapes(Restormer(**arguments, ffn_expansion=ffn_expansion))
        assert official_shapes(Restormer(**infer(shapes))) == shapes


def test_a_level_that_lost_its_keys_is_still_expected():
    """So that reading such a state dict reports them, instead of building a network without the level."""
    with torch.device("meta"):
        shapes = official_shapes(Restormer(**TINY))
        rest = {key: shape for key, shape in shapes.items() if not key.startswith("latent")}
        assert set(official_shapes(Restormer(**infer(rest)))) > set(rest)


@pytest.mark.parametrize("h", range(16, 71))
def test_any_size_is_the_image_reflected_to_its_right_and_below(h):
    w = int(torch.randint(16, 71, ()))
    net = small(dual_pixel=h % 2 == 0, norm="bias_free" if h % 3 == 0 else "with_bias")
    image = torch.rand(1, views(net), h, w, dtype=torch.float64)
    padded = torch.from_numpy(np.pad(image.numpy(), ((0, 0), (0, 0), (0, -h % 8), (0, -w % 8)), "reflect"))
    restored = net(image)
    assert restored.shape == (1, 3, h, w)
    assert_close(restored, net(padded)[..., :h, :w], rtol=1e-12, atol=1e-12)


def test_the_published_width_takes_a_prime_size():
    with torch.no_grad():
        assert Restormer()(torch.rand(1, 3, 17, 23)).shape == (1, 3, 17, 23)


@pytest.mark.parametrize("dual_pixel", [False, True])
def test_a_batch_of_two_is_two_batches_of_one(dual_pixel):
    net = small(dual_pixel=dual_pixel)
    images = torch.rand(2, views(net), 37, 26, dtype=torch.float64)
    assert_close(net(images), torch.cat([net(image[None]) for image in images]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dual_pixel", [False, True])
def test_only_a_dual_pixel_network_adds_no_image(dual_pixel):
    net = small(dual_pixel=dual_pixel, bias=False)
    nn.init.zeros_(net.output.weight)
    image = torch.rand(1, views(net), 24, 19, dtype=torch.float64)
    assert torch.equal(net(image), torch.zeros_like(image[:, :3]) if dual_pixel else image)


@pytest.mark.parametrize("dual_pixel", [False, True])
def test_every_stage_names_a_map_of_its_channels_and_stride(dual_pixel):
    net, shapes = small(dual_pixel=dual_pixel), {}
    for stage in net.stages:
        module = net.get_submodule(stage.name)
        module.register_forward_hook(lambda _m, _x, y, name=stage.name: shapes.update({name: tuple(y.shape)}))
    net(torch.rand(2, views(net), 32, 48, dtype=torch.float64))
    assert list(shapes) == [stage.name for stage in net.stages]
    assert shapes == {stage.name: (2, stage.channels, 32 // stage.stride, 48 // stage.stride) for stage in net.stages}
    assert {name for name, module in net.named_modules() if isinstance(module, Block)} < set(shapes)


# The block, written out once more


def randomised(part: nn.Module) -> nn.Module:
    for parameter in part.double().parameters():
        nn.init.normal_(parameter)
    return part.requires_grad_(False)


def slow_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, temperature: np.ndarray) -> np.ndarray:
    """Channel by channel, `c h w` in and out: softmax over the channels of the same head."""
    y, per_head = np.zeros_like(v), len(q) // len(temperature)
    for i in range(len(q)):
        head = i // per_head
        scores = []
        for j in range(head * per_head, (head + 1) * per_head):
            dot = square_q = square_k = 0.0
            for pixel in np.ndindex(q.shape[1:]):
                dot += q[i][pixel] * k[j][pixel]
                square_q += q[i][pixel] ** 2
                square_k += k[j][pixel] ** 2
            scores.append(np.exp(temperature[head] * dot / np.sqrt(square_q * square_k)))
        for j, score in enumerate(scores, start=head * per_head):
            y[i] += score / sum(scores) * v[j]
    return y


@pytest.mark.parametrize("heads", [1, 2, 6])
@pytest.mark.parametrize("bias", [False, True])
def test_attention_weighs_the_channels_of_a_head_by_their_cosines(heads, bias):
    part, x = randomised(ChannelAttention(6, heads, bias)), torch.randn(2, 6, 3, 5, dtype=torch.float64)
    local = F.conv2d(part.qkv(x), part.qkv_dwconv.weight, part.qkv_dwconv.bias, padding=1, groups=18)
    temperature = part.temperature.numpy().reshape(-1)
    mixed = np.stack([slow_attention(*np.split(one, 3), temperature) for one in local.numpy()])
    assert_close(part(x), part.project_out(torch.from_numpy(mixed)), rtol=1e-12, atol=1e-12)


def test_at_temperature_zero_every_channel_is_the_mean_of_its_head():
    part, x = randomised(ChannelAttention(6, 2, bias=False)), torch.randn(1, 6, 4, 5, dtype=torch.float64)
    nn.init.zeros_(part.temperature)
    v = part.qkv_dwconv(part.qkv(x))[:, 12:]
    means = v.reshape(1, 2, 3, 4, 5).mean(dim=2).repeat_interleave(3, dim=1)
    assert_close(part(x), part.project_out(means), rtol=1e-12, atol=1e-12)


def test_without_its_local_convolution_attention_does_not_know_where_pixels_are():
    part, x = randomised(ChannelAttention(6, 2, bias=True)), torch.randn(1, 6, 3, 7, dtype=torch.float64)
    shuffle = torch.randperm(21)

    def shuffled(y: Tensor) -> Tensor:
        return y.flatten(2)[..., shuffle].reshape(y.shape)

    assert (part(shuffled(x)) - shuffled(part(x))).abs().max() > 1e-6
    part.qkv_dwconv.weight[..., [0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]] = 0
    assert_close(part(shuffled(x)), shuffled(part(x)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_black_map_has_finite_attention_and_gradient(dtype):
    part, x = (
        ChannelAttention(6, 2, bias=False).to(dtype),
        torch.zeros(1, 6, 4, 4, dtype=dtype, requires_grad=True),
    )
    y = part(x)
    y.sum().backward()
    assert torch.equal(y, torch.zeros_like(y))
    assert x.grad.isfinite().all()


def test_products_of_large_maps_do_not_overflow_in_half_precision():
    part, x = ChannelAttention(4, 1, bias=False).half(), 50 * torch.rand(1, 4, 64, 64).half() + 200
    assert_close(part(x).float(), part.float()(x.float()), rtol=2e-2, atol=1)


@pytest.mark.parametrize("norm", ["with_bias", "bias_free"])
def test_a_block_is_its_formula(norm):
    block, x = (
        randomised(Block(6, 2, 2.66, bias=True, norm=norm)),
        torch.randn(2, 6, 3, 5, dtype=torch.float64),
    )
    p = dict(block.named_parameters())

    def normalised(y: Tensor, name: str) -> Tensor:
        mean = sum(y[:, c] for c in range(6))[:, None] / 6
        variance = sum((y[:, c] - mean[:, 0]) ** 2 for c in range(6))[:, None] / 6
        centred = y - mean if norm == "with_bias" else y
        scaled = centred / (variance + 1e-5).sqrt() * p[f"{name}.weight"].reshape(6, 1, 1)
        return scaled + p[f"{name}.bias"].reshape(6, 1, 1) if norm == "with_bias" else scaled

    y = x + block.mixer(normalised(x, "norm1"))
    t = F.conv2d(normalised(y, "norm2"), p["ffn.project_in.weight"], p["ffn.project_in.bias"])
    t = F.conv2d(t, p["ffn.dwconv.weight"], p["ffn.dwconv.bias"], padding=1, groups=30)
    t = 0.5 * t[:, :15] * (1 + torch.erf(t[:, :15] / 2**0.5)) * t[:, 15:]  # int(2.66 * 6) = 15
    y = y + F.conv2d(t, p["ffn.project_out.weight"], p["ffn.project_out.bias"])
    assert_close(block(x), y, rtol=1e-12, atol=1e-12)


def test_the_bias_free_norm_does_not_subtract_the_mean_it_measures_spread_about():
    x = torch.tensor([1.0, 3.0], dtype=torch.float64).reshape(1, 2, 1, 1)  # mean 2, variance 1
    assert_close(BiasFreeNorm2d(2, eps=0.0).double()(x), x)


def test_what_a_caller_gets_wrong_is_said():
    with pytest.raises(ValueError, match="norm='layer' is unknown; choose one of 'with_bias', 'bias_free'"):
        Restormer(norm="layer")
    with pytest.raises(ValueError, match=r"four levels; give four numbers each, not depths=\(1, 2, 1\)"):
        Restormer(depths=(1, 2, 1))
    with pytest.raises(ValueError, match="3 heads do not divide the 16 channels of level 2"):
        Restormer(width=8, heads=(1, 3, 4, 8))
    with pytest.raises(ValueError, match="9 is odd"):
        Restormer(width=9, heads=(1, 1, 1, 1))
