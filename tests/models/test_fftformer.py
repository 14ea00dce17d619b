"""FFTformer against the released network's numbers, a slower second derivation of its attention, and laws.

`golden/fftformer.npz` holds, for each run of the official code (github.com/kkkls/FFTformer, 01306b5), about
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

from evssm.models.fftformer import (
    NAMING,
    DecoderBlock,
    EncoderBlock,
    FFTformer,
    Fuse,
    SpectralAttention,
    convolve_patches,
    infer,
)
from evssm.naming import official_keys

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "fftformer.npz")
TINY = {"width": 4, "depths": (1, 2, 1), "refinement": 1}

MAPS = {  # official name, our module, channel stride, pixel stride
    "encoder_level1": ("encoder.0", 6, 4),
    "encoder_level3": ("encoder.2", 12, 1),
    "decoder_level3": ("decoder.0", 12, 1),
    "fuse2": ("fuse.0", 12, 2),
    "fuse1": ("fuse.1", 6, 4),
    "decoder_level1": ("decoder.2", 6, 4),
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


@pytest.fixture
def released() -> FFTformer:
    """The published network with the golden weights, in float64."""
    net = FFTformer()
    keys, state = official_keys(net, NAMING), ruled_state(official_shapes(net))
    net.load_state_dict({keys[official]: value for official, value in state.items()})
    return net.double().eval().requires_grad_(False)


def randomised(part: nn.Module) -> nn.Module:
    for parameter in part.double().parameters():
        nn.init.normal_(parameter)
    return part.requires_grad_(False)


def small() -> FFTformer:
    """A float64 network of random weights with all its levels and spectral gains that differ."""
    net = FFTformer(**TINY).double().requires_grad_(False)
    for name, parameter in net.named_parameters():
        if name.endswith("gain"):
            nn.init.normal_(parameter, mean=1)
    return net


def test_the_output_is_the_released_networks(released):
    image = ruled_image(11, 1, 3, 32, 96)
    assert distance(released(image.double())[..., ::4, ::4], "fftformer_32x96/out_f64") < 1e-10
    assert distance(released.float()(image)[..., ::4, ::4], "fftformer_32x96/out_f64") < 2e-5


def test_maps_in_between_and_the_receptive_field_are_the_released_networks(released):
    maps = {}
    for official, (ours, *_) in MAPS.items():
        module = released.get_submodule(ours)
        module.register_forward_hook(lambda _m, _x, y, key=official: maps.update({key: y}))
    image = ruled_image(10, 1, 3, 64, 64).double().requires_grad_()
    restored = released(image)
    assert distance(restored[..., ::4, ::4], "fftformer_64x64/out_f64") < 1e-10
    for official, (_, channels, pixels) in MAPS.items():
        sampled = maps[official][:, ::channels, ::pixels, ::pixels]
        assert distance(sampled, f"fftformer_64x64/mid:{official}") < 2e-5, official
    (gradient,) = torch.autograd.grad(restored[0, :, 32, 32].sum(), image)
    assert distance(gradient[0].abs().sum(dim=0)[::4, ::4], "fftformer_64x64/erf_f64") < 1e-10
    assert distance(gradient[0, :, ::2, ::2], "fftformer_64x64/grad") < 5e-5


def test_the_official_state_dict_has_our_tensors_in_its_order():
    """The digest is of the released checkpoint's keys and shapes, a line `key:[sizes]` each."""
    with torch.device("meta"):
        shapes = official_shapes(FFTformer())
    lines = "\n".join(f"{k}:{list(s)}" for k, s in shapes.items())
    assert len(shapes) == 535
    assert sum(map(np.prod, shapes.values())) == 16_560_474
    assert sha256(lines.encode()).hexdigest() == "d7eec6056ff60f5281f3e221d6fbb38dae6c5fb282a873cf89ae17e8a849a48f"
    assert infer(shapes) == {
        "width": 48,
        "depths": (6, 6, 12),
        "refinement": 4,
        "ffn_expansion": 3,
        "bias": False,
    }


@pytest.mark.parametrize("bias", [False, True])
def test_the_arguments_follow_from_an_official_state_dict(bias):
    arguments = {"width": 10, "depths": (2, 1, 3), "refinement": 2, "ffn_expansion": 2.5, "bias": bias}
    with torch.device("meta"):
        assert infer(official_shapes(FFTformer(**arguments))) == arguments


@pytest.mark.parametrize("ffn_expansion", [1.1, 2.66, 3, 10 / 3, 4.01])
@pytest.mark.parametrize("width", [3, 14, 48, 49])
def test_the_inferred_expansion_gives_the_same_shapes(ffn_expansion, width):
    with torch.device("meta"):
        shapes = official_shapes(FFTformer(**{**TINY, "width": width}, ffn_expansion=ffn_expansion))
        assert official_shapes(FFTformer(**infer(shapes))) == shapes


def test_a_level_that_lost_its_keys_is_still_expected():
    """So that reading such a state dict reports them, instead of building a network without the level."""
    with torch.device("meta"):
        shapes = official_shapes(FFTformer(**TINY))
        rest = {key: shape for key, shape in shapes.items() if "coder_level3" not in key}
        assert set(official_shapes(FFTformer(**infer(rest)))) > set(rest)


def test_the_unused_weight_is_kept_and_changes_nothing():
    net, image = small(), torch.rand(1, 3, 32, 32, dtype=torch.float64)
    before = net(image)
    nn.init.normal_(net.unused.weight)
    assert torch.equal(net(image), before)
    assert official_keys(net, NAMING)["reduce_chan_level2.weight"] == "unused.weight"


@pytest.mark.parametrize("h", range(16, 71))
def test_any_size_is_the_image_reflected_to_its_right_and_below(h):
    w = int(torch.randint(16, 71, ()))
    net, image = small(), torch.rand(1, 3, h, w, dtype=torch.float64)
    padded = torch.from_numpy(np.pad(image.numpy(), ((0, 0), (0, 0), (0, -h % 32), (0, -w % 32)), "reflect"))
    restored = net(image)
    assert restored.shape == image.shape
    assert_close(restored, net(padded)[..., :h, :w], rtol=1e-12, atol=1e-12)


def test_the_published_width_takes_a_prime_size():
    with torch.no_grad():
        assert FFTformer()(torch.rand(1, 3, 17, 23)).shape == (1, 3, 17, 23)


def test_a_batch_of_two_is_two_batches_of_one():
    net, images = small(), torch.rand(2, 3, 37, 26, dtype=torch.float64)
    assert_close(net(images), torch.cat([net(image[None]) for image in images]), rtol=1e-12, atol=1e-12)


def test_the_image_is_added_to_the_output():
    net, image = small(), torch.rand(1, 3, 24, 19, dtype=torch.float64)
    nn.init.zeros_(net.output.weight)
    assert torch.equal(net(image), image)


def test_every_stage_names_a_map_of_its_channels_and_stride():
    net, shapes = small(), {}
    for stage in net.stages:
        module = net.get_submodule(stage.name)
        module.register_forward_hook(lambda _m, _x, y, name=stage.name: shapes.update({name: tuple(y.shape)}))
    net(torch.rand(2, 3, 32, 64, dtype=torch.float64))
    assert list(shapes) == [stage.name for stage in net.stages]
    assert shapes == {stage.name: (2, stage.channels, 32 // stage.stride, 64 // stage.stride) for stage in net.stages}
    blocks = {name for name, m in net.named_modules() if isinstance(m, EncoderBlock | DecoderBlock)}
    assert {name for name in blocks if not name.startswith("fuse")} < set(shapes)


def test_only_the_decoder_and_the_refinement_attend():
    attending = {name.split(".")[0] for name, m in small().named_modules() if isinstance(m, SpectralAttention)}
    assert attending == {"decoder", "refinement"}


# Attention in patches


def slow_convolution(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    """One map `h w`, patch by patch and pixel by pixel, from the definition."""
    y = np.zeros_like(q)
    for i, j in np.ndindex(*q.shape):
        top, left = i // 8 * 8, j // 8 * 8
        for m, n in np.ndindex(8, 8):
            y[i, j] += q[top + m, left + n] * k[top + (i - m) % 8, left + (j - n) % 8]
    return y


def test_patches_are_convolved_around_their_own_edges():
    q, k = torch.randn(2, 2, 2, 16, 24, dtype=torch.float64)
    slow = [slow_convolution(a, b) for a, b in zip(*(t.reshape(-1, 16, 24).numpy() for t in (q, k)), strict=True)]
    assert_close(convolve_patches(q, k), torch.from_numpy(np.stack(slow)).reshape(q.shape))
    assert_close(convolve_patches(q, k), convolve_patches(k, q))


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 3), (5, 0), (7, 6)])
def test_an_impulse_turns_each_patch_around(row, column):
    q, k = torch.randn(1, 1, 8, 16, dtype=torch.float64), torch.zeros(1, 1, 8, 16, dtype=torch.float64)
    k[..., row, column] = k[..., row, 8 + column] = 1
    turned = [patch.roll((row, column), dims=(-2, -1)) for patch in q.split(8, dim=-1)]
    assert_close(convolve_patches(q, k), torch.cat(turned, dim=-1))


def test_half_precision_is_convolved_in_single_precision():
    q, k = torch.rand(2, 1, 1, 8, 8).half() * 30
    found = convolve_patches(q, k)
    assert found.dtype == torch.float16
    assert_close(found.float(), convolve_patches(q.float(), k.float()), rtol=1e-3, atol=0)


@pytest.mark.parametrize("bias", [False, True])
def test_attention_scales_the_values_by_the_normalised_convolution(bias):
    part, x = randomised(SpectralAttention(3, bias)), torch.randn(2, 3, 8, 16, dtype=torch.float64)
    hidden = F.conv2d(part.to_hidden(x), part.to_hidden_dw.weight, part.to_hidden_dw.bias, padding=1, groups=18)
    q, k, v = hidden.reshape(2, 3, 6, 8, 16).numpy().swapaxes(0, 1)
    scores = np.stack([[slow_convolution(*pair) for pair in zip(a, b, strict=True)] for a, b in zip(q, k, strict=True)])
    scores = (scores - scores.mean(axis=1, keepdims=True)) / np.sqrt(scores.var(axis=1, keepdims=True) + 1e-5)
    scale, shift = (p.numpy().reshape(6, 1, 1) for p in (part.norm.weight, part.norm.bias))
    weighted = torch.from_numpy((scores * scale + shift) * v)
    assert_close(part(x), part.project_out(weighted), rtol=1e-10, atol=1e-10)


# The blocks, written out once more


def plain_ffn(x: Tensor, p: dict[str, Tensor], name: str) -> Tensor:
    """norm2 and ffn of a block with the parameters `p`, by FFTs; hidden channels as they come."""
    c, h, w = x.shape[1:]
    t = x - x.mean(dim=1, keepdim=True)
    t = t / (t.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()
    t = t * p[f"{name}norm2.weight"].reshape(c, 1, 1) + p[f"{name}norm2.bias"].reshape(c, 1, 1)
    t = F.conv2d(t, p[f"{name}ffn.project_in.weight"], p.get(f"{name}ffn.project_in.bias"))
    patches = t.unfold(2, 8, 8).unfold(3, 8, 8)
    gain = p[f"{name}ffn.spectrum.gain"]
    patches = torch.fft.irfft2(torch.fft.rfft2(patches) * gain, s=(8, 8))
    t = patches.transpose(3, 4).reshape(len(x), -1, h, w)
    t = F.conv2d(t, p[f"{name}ffn.dwconv.weight"], p.get(f"{name}ffn.dwconv.bias"), padding=1, groups=t.shape[1])
    gate, value = t.tensor_split(2, dim=1)
    t = 0.5 * gate * (1 + torch.erf(gate / 2**0.5)) * value
    return F.conv2d(t, p[f"{name}ffn.project_out.weight"], p.get(f"{name}ffn.project_out.bias"))


@pytest.mark.parametrize("bias", [False, True])
def test_an_encoder_block_filters_before_its_depthwise_convolution(bias):
    block, x = randomised(EncoderBlock(5, 2.5, bias)), torch.randn(2, 5, 16, 8, dtype=torch.float64)
    p = dict(block.named_parameters())
    assert p["ffn.spectrum.gain"].shape[0] == 24  # 2 int(2.5 * 5)
    assert_close(block(x), x + plain_ffn(x, p, ""), rtol=1e-10, atol=1e-10)


def test_a_decoder_block_attends_before_its_feed_forward_part():
    block, x = randomised(DecoderBlock(4, 3, False)), torch.randn(1, 4, 8, 8, dtype=torch.float64)
    y = x + block.mixer(block.norm1(x))
    assert_close(block(x), y + plain_ffn(y, dict(block.named_parameters()), ""), rtol=1e-10, atol=1e-10)


def test_fusing_takes_the_decoders_map_first_and_sums_two_halves():
    part = randomised(Fuse(3))
    decoded, encoded = torch.randn(2, 2, 3, 8, 16, dtype=torch.float64)
    p = dict(part.named_parameters())
    y = F.conv2d(torch.cat((decoded, encoded), dim=1), p["conv.weight"], p["conv.bias"])
    y = F.conv2d(y + plain_ffn(y, p, "block."), p["conv2.weight"], p["conv2.bias"])
    assert_close(part(decoded, encoded), y[:, :3] + y[:, 3:], rtol=1e-10, atol=1e-10)


def test_what_a_caller_gets_wrong_is_said():
    with pytest.raises(ValueError, match=r"three levels; give three depths, not \(6, 6, 12, 8\)"):
        FFTformer(depths=(6, 6, 12, 8))
