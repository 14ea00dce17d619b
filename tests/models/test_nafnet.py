"""NAFNet against the released network's numbers, a slower second derivation of its local means, and laws.

`golden/nafnet.npz` holds, for each run of the official code (`megvii-research/NAFNet`, 2b4af71), about 48
numbers of each array: `every_nth` of the float64 output and receptive field, strided by 4, and of the float32
maps and gradient, strided as below. Weights and images follow from `weight_rule`.
"""

from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close
from weight_rule import ruled_image, ruled_state

from evssm.models.nafnet import NAMING, Block, ChannelAttention, NAFNet, attention_windows, box_mean, infer
from evssm.naming import official_keys

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "nafnet.npz")
RELEASED = {"encoder_depths": (1, 1, 1, 28), "middle_depth": 1, "decoder_depths": (1, 1, 1, 1)}
SIZES = range(16, 71)

OUTPUTS = {  # constructor arguments, image seed, image size
    "nafnet_w64_64x64": ({"width": 64}, 21, (64, 64)),
    "nafnet_w32_64x64": ({"width": 32}, 20, (64, 64)),
    "nafnet_w32_52x76": ({"width": 32}, 22, (52, 76)),
    "nafnetlocal_w32_ts32_64x80": ({"width": 32, "local": (32, 32)}, 23, (64, 80)),
}
MAPS = {  # official name, our module, channel stride, pixel stride
    "encoders.0": ("encoder.0", 4, 4),
    "encoders.3": ("encoder.3", 16, 1),
    "middle_blks": ("middle", 32, 1),
    "decoders.0": ("decoder.0", 16, 1),
    "decoders.3": ("decoder.3", 4, 4),
}


def every_nth(x: Tensor) -> np.ndarray:
    flat = x.detach().numpy().reshape(-1)
    return flat[:: flat.size // 48 | 1]


def distance(found: Tensor, name: str) -> float:
    """Relative L2 distance between the sampled `found` and the stored numbers."""
    wanted = GOLDEN[name].astype(np.float64)
    return float(np.linalg.norm(every_nth(found) - wanted) / np.linalg.norm(wanted))


def official_shapes(net: NAFNet) -> dict[str, tuple[int, ...]]:
    own = net.state_dict()
    return {official: tuple(own[ours].shape) for official, ours in official_keys(net, NAMING).items()}


@lru_cache(maxsize=1)
def ruled_weights(width: int) -> dict[str, Tensor]:
    with torch.device("meta"):
        return ruled_state(official_shapes(NAFNet(width=width)))


def ruled(dtype: torch.dtype = torch.float64, **arguments) -> NAFNet:
    """The network with the golden weights."""
    net = NAFNet(**arguments)
    keys = official_keys(net, NAMING)
    net.load_state_dict({keys[k]: value for k, value in ruled_weights(arguments["width"]).items()})
    return net.to(dtype).eval()


def small(**arguments) -> NAFNet:
    """A float64 network of random weights with all five levels, and no dead branch."""
    shape = {"width": 4, "encoder_depths": (1, 1, 1, 2), "middle_depth": 1, "decoder_depths": (1, 1, 1, 1)}
    net = NAFNet(**{**shape, **arguments}).double()
    for name, parameter in net.named_parameters():
        if name.endswith(("beta", "gamma")):
            torch.nn.init.normal_(parameter)
    return net.requires_grad_(False)


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_output_is_the_released_networks(name):
    arguments, seed, size = OUTPUTS[name]
    image = ruled_image(seed, 1, 3, *size)
    net = ruled(**arguments)
    with torch.no_grad():
        assert distance(net(image.double())[..., ::4, ::4], f"{name}/out_f64") < 1e-10
        assert distance(net.float()(image)[..., ::4, ::4], f"{name}/out_f64") < 2e-5


def test_the_maps_in_between_are_the_released_networks():
    net, maps = ruled(torch.float32, width=32), {}
    for official, (ours, *_) in MAPS.items():
        net.get_submodule(ours).register_forward_hook(lambda _m, _x, y, key=official: maps.update({key: y}))
    with torch.no_grad():
        net(ruled_image(20, 1, 3, 64, 64))
    for official, (_, channels, pixels) in MAPS.items():
        sampled = maps[official][:, ::channels, ::pixels, ::pixels]
        assert distance(sampled, f"nafnet_w32_64x64/mid:{official}") < 2e-5, official


def test_the_receptive_field_is_the_released_networks():
    net, image = ruled(width=32), ruled_image(20, 1, 3, 64, 64).double().requires_grad_()
    (gradient,) = torch.autograd.grad(net(image)[0, :, 32, 32].sum(), image)
    field = gradient[0].abs().sum(dim=0)
    assert distance(field[::4, ::4], "nafnet_w32_64x64/erf_f64") < 1e-10
    assert distance(gradient[0, :, ::2, ::2], "nafnet_w32_64x64/grad") < 5e-5


@pytest.mark.parametrize(
    ("width", "parameters", "digest"),
    [
        (32, 17_111_907, "8d0f1dd8a0ee927ea3f3fb3f6f0a728fffe599064af722f1eb88aa9161dcbb4c"),
        (64, 67_888_835, "c34bc6057ce1028c9ca675102cdbef0485eff33df3363cf1b9861c23d930f43d"),
    ],
)
def test_the_official_state_dict_has_our_tensors_in_its_order(width, parameters, digest):
    """The digest is of the released checkpoint's keys and shapes, a line `key:[sizes]` each."""
    with torch.device("meta"):
        shapes = official_shapes(NAFNet(width=width))
    assert len(shapes) == 664
    assert (next(iter(shapes)), next(reversed(shapes))) == ("intro.weight", "downs.3.bias")
    assert sum(map(np.prod, shapes.values())) == parameters
    assert sha256("\n".join(f"{k}:{list(s)}" for k, s in shapes.items()).encode()).hexdigest() == digest
    assert infer(shapes) == {"width": width, **RELEASED}


@pytest.mark.parametrize(
    "arguments",
    [
        {"width": 6, "encoder_depths": (2, 3), "middle_depth": 0, "decoder_depths": (1, 4)},
        {"width": 8, "encoder_depths": (0,), "middle_depth": 2, "decoder_depths": (1,)},
    ],
)
def test_width_and_depths_follow_from_an_official_state_dict(arguments):
    assert infer(official_shapes(NAFNet(**arguments))) == arguments


@pytest.mark.parametrize("h", SIZES)
def test_any_size_is_the_image_with_zeros_to_its_right_and_below(h):
    w = int(torch.randint(16, 71, ()))
    net, image = small(local=(24, 32)), torch.rand(1, 3, h, w, dtype=torch.float64)
    padded = torch.zeros(1, 3, -(-h // 16) * 16, -(-w // 16) * 16, dtype=torch.float64)
    padded[..., :h, :w] = image
    assert net(image).shape == image.shape
    assert_close(net(image), net(padded)[..., :h, :w], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("local", [False, (16, 24)])
def test_a_batch_of_two_is_two_batches_of_one(local):
    net, images = small(local=local), torch.rand(2, 3, 37, 50, dtype=torch.float64)
    assert_close(net(images), torch.cat([net(image[None]) for image in images]), rtol=1e-12, atol=1e-12)


def test_a_fresh_network_is_affine():
    """Its blocks are dead until training moves beta and gamma from 0."""
    net = NAFNet(width=4, encoder_depths=(1, 2), middle_depth=1, decoder_depths=(1, 1)).double()
    x, y = torch.rand(2, 1, 3, 18, 21, dtype=torch.float64)
    assert_close(net(0.3 * x + 0.7 * y), 0.3 * net(x) + 0.7 * net(y), rtol=1e-12, atol=1e-12)


def test_a_trained_block_is_not_affine():
    """So the test above could fail."""
    net = small()
    x, y = torch.rand(2, 1, 3, 18, 21, dtype=torch.float64)
    assert (net(0.3 * x + 0.7 * y) - 0.3 * net(x) - 0.7 * net(y)).abs().max() > 1e-6


def test_every_stage_names_a_map_of_its_channels_and_stride():
    net, shapes = small(), {}
    for stage in net.stages:
        module = net.get_submodule(stage.name)
        module.register_forward_hook(lambda _m, _x, y, name=stage.name: shapes.update({name: tuple(y.shape)}))
    net(torch.rand(2, 3, 32, 48, dtype=torch.float64))
    assert list(shapes) == [stage.name for stage in net.stages]
    assert shapes == {stage.name: (2, stage.channels, 32 // stage.stride, 48 // stage.stride) for stage in net.stages}
    assert {name for name, m in net.named_modules() if isinstance(m, Block)} < set(shapes)


# Local means (TLC)


def slow_box_mean(x: np.ndarray, window: tuple[int, int]) -> np.ndarray:
    """The mean of the window that starts half its length before each pixel, moved into the map."""
    (h, w), (kh, kw) = x.shape, (min(window[0], x.shape[0]), min(window[1], x.shape[1]))
    means = np.empty((h, w))
    for i, j in np.ndindex(h, w):
        top = min(max(i - (kh - 1) // 2, 0), h - kh)
        left = min(max(j - (kw - 1) // 2, 0), w - kw)
        means[i, j] = x[top : top + kh, left : left + kw].mean()
    return means


sides = st.integers(1, 14)


@settings(deadline=None, max_examples=150)
@given(h=sides, w=sides, rows=sides, columns=sides)
def test_local_means_are_the_means_of_windows_moved_into_the_map(h, w, rows, columns):
    x = torch.randn(2, 3, h, w, dtype=torch.float64)
    slow = np.stack([slow_box_mean(m, (rows, columns)) for m in x.reshape(-1, h, w).numpy()])
    found = box_mean(x, (rows, columns)).expand_as(x)
    assert_close(found, torch.from_numpy(slow).reshape(x.shape), rtol=1e-12, atol=1e-12)


@given(h=sides, w=sides, more=st.integers(0, 3))
@settings(deadline=None)
def test_a_window_that_covers_the_map_has_one_plain_mean(h, w, more):
    x = torch.randn(1, 2, h, w, dtype=torch.float64)
    assert torch.equal(box_mean(x, (h + more, w + more)), x.mean(dim=(2, 3), keepdim=True))


def test_half_precision_is_summed_in_single_precision():
    x = torch.rand(1, 1, 300, 300) + 10
    found = box_mean(x.half(), (50, 50))
    assert found.dtype == torch.float16
    assert_close(found.float(), box_mean(x.half().float(), (50, 50)), rtol=1e-3, atol=0)


@pytest.mark.parametrize(("h", "w"), [(96, 130), (144, 48), (145, 66)])
def test_the_local_network_differs_from_the_plain_one_only_beyond_its_window(h, w):
    """Crops of 96 x 64 give a window of 144 x 96."""
    local, plain = small(local=(96, 64)), small()
    plain.load_state_dict(local.state_dict())
    image = torch.rand(1, 3, h, w, dtype=torch.float64)
    assert torch.equal(local(image), plain(image)) == (h <= 144 and w <= 96)


@pytest.mark.parametrize("train", [(256, 256), (32, 32), (40, 72), (33, 100)])
def test_windows_are_as_the_release_measures_them(train):
    """The release runs an image of the training size and fixes each window from the map that it meets."""
    net, met = small(), []
    for module in net.modules():
        if isinstance(module, ChannelAttention):
            module.register_forward_hook(lambda _m, x, _y: met.append(x[0].shape[-2:]))
    net(torch.zeros(1, 3, *train, dtype=torch.float64))
    base = [int(1.5 * side) for side in train]
    fixed = [tuple(side * b // t for side, b, t in zip(size, base, train, strict=True)) for size in met]
    in_network = [m.window for m in small(local=train).modules() if isinstance(m, ChannelAttention)]
    assert sorted(fixed) == sorted(in_network)
    assert set(fixed) == set(attention_windows(train, levels=4))


def test_the_released_windows_are_those_of_256_pixel_crops():
    assert attention_windows((256, 256), levels=4) == [(edge, edge) for edge in (384, 192, 96, 48, 24)]


def test_what_a_caller_gets_wrong_is_said():
    with pytest.raises(ValueError, match=r"decoder_depths=\(1, 1\); give both the same length"):
        NAFNet(width=4, encoder_depths=(1,), decoder_depths=(1, 1))
    with pytest.raises(ValueError, match=r"training crops in pixels, not \(0, 256\)"):
        NAFNet(width=4, local=(0, 256))


def test_a_block_is_its_formula():
    """Written out with plain operators, parameter by parameter."""
    block = Block(3).double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter)
    p, x = dict(block.named_parameters()), torch.randn(2, 3, 5, 4, dtype=torch.float64)

    def norm(y: Tensor, name: str) -> Tensor:
        y = y - y.mean(dim=1, keepdim=True)
        y = y / (y.square().mean(dim=1, keepdim=True) + 1e-6).sqrt()
        return y * p[f"{name}.weight"].reshape(3, 1, 1) + p[f"{name}.bias"].reshape(3, 1, 1)

    def conv(y: Tensor, name: str, **how) -> Tensor:
        return F.conv2d(y, p[f"{name}.weight"], p[f"{name}.bias"], **how)

    t = conv(conv(norm(x, "norm"), "expand"), "depthwise", padding=1, groups=6)
    t = t[:, :3] * t[:, 3:]
    t = t * conv(t.sum(dim=(2, 3), keepdim=True) / 20, "attention.mix")
    y = x + p["beta"] * conv(t, "project")
    t = conv(norm(y, "ffn_norm"), "ffn_expand")
    assert_close(block(x), y + p["gamma"] * conv(t[:, :3] * t[:, 3:], "ffn_project"))
