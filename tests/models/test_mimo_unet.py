"""MIMO-UNet and MIMO-UNet+ against the released networks' numbers, and laws.

`golden/mimo_unet.npz` holds, for each run of the official code (`chosj95/MIMO-UNet`, 5c58013), about 48
numbers of each array: `every_nth` of the float64 outputs and receptive field, strided by 4, and of the
float32 maps and gradient, strided as below. Weights and images follow from `weight_rule`.
"""

from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close
from weight_rule import ruled_image, ruled_state

from evssm.models.mimo_unet import NAMING, Context, Fuse, MIMOUNet, ResidualBlock, infer
from evssm.naming import official_keys

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "mimo_unet.npz")
SIZES = range(16, 71)
SCALES = ("quarter", "half", "full")

OUTPUTS = {  # residual blocks, image seed, image size
    "mimounet_64x64": (8, 40, (64, 64)),
    "mimounetplus_64x64": (20, 41, (64, 64)),
    "mimounetplus_48x80": (20, 42, (48, 80)),
}
MAPS = {  # official name, our module, channel stride, pixel stride
    "Encoder.0": ("encoder.0", 4, 4),
    "FAM2": ("attend.0", 8, 2),
    "Encoder.2": ("encoder.2", 16, 1),
    "AFFs.1": ("fuse.1", 8, 2),
    "AFFs.0": ("fuse.0", 4, 4),
    "Decoder.0": ("decoder.0", 16, 1),
}


def every_nth(x: Tensor) -> np.ndarray:
    flat = x.detach().numpy().reshape(-1)
    return flat[:: flat.size // 48 | 1]


def distance(found: Tensor, name: str) -> float:
    """Relative L2 distance between the sampled `found` and the stored numbers."""
    wanted = GOLDEN[name].astype(np.float64)
    return float(np.linalg.norm(every_nth(found) - wanted) / np.linalg.norm(wanted))


def official_shapes(net: MIMOUNet) -> dict[str, tuple[int, ...]]:
    own = net.state_dict()
    return {official: tuple(own[ours].shape) for official, ours in official_keys(net, NAMING).items()}


@lru_cache(maxsize=1)
def ruled_weights(residual_blocks: int) -> dict[str, Tensor]:
    with torch.device("meta"):
        return ruled_state(official_shapes(MIMOUNet(residual_blocks=residual_blocks)))


def ruled(residual_blocks: int, dtype: torch.dtype = torch.float64) -> MIMOUNet:
    """The network with the golden weights."""
    net = MIMOUNet(residual_blocks=residual_blocks)
    keys = official_keys(net, NAMING)
    net.load_state_dict({keys[k]: value for k, value in ruled_weights(residual_blocks).items()})
    return net.to(dtype).eval()


def small(**arguments) -> MIMOUNet:
    """A float64 network of random weights."""
    return MIMOUNet(**{"residual_blocks": 1, "width": 8, **arguments}).double().eval().requires_grad_(False)


@pytest.mark.parametrize("name", OUTPUTS)
def test_all_three_outputs_are_the_released_networks(name):
    residual_blocks, seed, size = OUTPUTS[name]
    image, net = ruled_image(seed, 1, 3, *size), ruled(residual_blocks)
    with torch.no_grad():
        for scale, found in zip(SCALES, net.pyramid(image.double()), strict=True):
            assert distance(found[..., ::4, ::4], f"{name}/out_{scale}_f64") < 1e-10
        for scale, found in zip(SCALES, net.float().pyramid(image), strict=True):
            assert distance(found[..., ::4, ::4], f"{name}/out_{scale}_f64") < 3e-6


def test_the_maps_in_between_are_the_released_networks():
    net, maps = ruled(20, torch.float32), {}
    for official, (ours, *_) in MAPS.items():
        net.get_submodule(ours).register_forward_hook(lambda _m, _x, y, key=official: maps.update({key: y}))
    with torch.no_grad():
        net(ruled_image(41, 1, 3, 64, 64))
    for official, (_, channels, pixels) in MAPS.items():
        sampled = maps[official][:, ::channels, ::pixels, ::pixels]
        assert distance(sampled, f"mimounetplus_64x64/mid:{official}") < 3e-6, official


def test_the_receptive_field_is_the_released_networks():
    net, image = ruled(20), ruled_image(41, 1, 3, 64, 64).double().requires_grad_()
    (gradient,) = torch.autograd.grad(net(image)[0, :, 32, 32].sum(), image)
    field = gradient[0].abs().sum(dim=0)
    assert distance(field[::4, ::4], "mimounetplus_64x64/erf_f64") < 1e-10
    assert distance(gradient[0, :, ::2, ::2], "mimounetplus_64x64/grad") < 1e-3


@pytest.mark.parametrize(
    ("residual_blocks", "tensors", "parameters", "digest"),
    [
        (8, 244, 6_807_171, "2ca372a3f572606a49603599cffe4852b58bccddabf10ca19bfb13e062794d9e"),
        (20, 532, 16_107_651, "2dfe36274f3326657eb13b0f98fb896ee5999610d5dfe07f49c52c8cd5e2a422"),
    ],
)
def test_the_official_state_dict_has_our_tensors_in_its_order(residual_blocks, tensors, parameters, digest):
    """The digest is of the released checkpoint's keys and shapes, a line `key:[sizes]` each."""
    with torch.device("meta"):
        shapes = official_shapes(MIMOUNet(residual_blocks=residual_blocks))
    assert len(shapes) == tensors
    assert next(iter(shapes)) == "Encoder.0.layers.0.main.0.main.0.weight"
    assert next(reversed(shapes)) == "SCM2.conv.main.0.bias"
    assert sum(map(np.prod, shapes.values())) == parameters
    assert sha256("\n".join(f"{k}:{list(s)}" for k, s in shapes.items()).encode()).hexdigest() == digest


@pytest.mark.parametrize(("residual_blocks", "width"), [(8, 32), (20, 32), (3, 6), (12, 2)])
def test_blocks_and_width_follow_from_an_official_state_dict(residual_blocks, width):
    with torch.device("meta"):
        shapes = official_shapes(MIMOUNet(residual_blocks=residual_blocks, width=width))
    assert infer(shapes) == {"residual_blocks": residual_blocks, "width": width}


@pytest.mark.parametrize("h", SIZES)
def test_any_size_is_the_image_mirrored_to_its_right_and_below(h):
    w = int(torch.randint(16, 71, ()))
    net, image = small(), torch.rand(1, 3, h, w, dtype=torch.float64)
    mirrored = np.pad(image.numpy(), ((0, 0), (0, 0), (0, -h % 4), (0, -w % 4)), mode="reflect")
    whole = net.pyramid(torch.from_numpy(mirrored))
    for stride, found, wanted in zip((4, 2, 1), net.pyramid(image), whole, strict=True):
        assert found.shape == (1, 3, -(-h // stride), -(-w // stride))
        assert_close(found, wanted[..., : found.shape[-2], : found.shape[-1]], rtol=1e-12, atol=1e-12)
    assert torch.equal(net(image), net.pyramid(image)[-1])


def test_a_batch_of_two_is_two_batches_of_one():
    net, images = small(), torch.rand(2, 3, 37, 50, dtype=torch.float64)
    assert_close(net(images), torch.cat([net(image[None]) for image in images]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("h", "w"), [(16, 16), (17, 30), (31, 19), (22, 45)])
def test_each_scale_adds_to_the_image_at_even_pixels(h, w):
    """With silent output convolutions the pyramid is every pixel, every second and every fourth."""
    net, image = small(), torch.rand(2, 3, h, w, dtype=torch.float64)
    for output in net.output:
        torch.nn.init.zeros_(output.weight)
        torch.nn.init.zeros_(output.bias)
    for stride, found in zip((4, 2, 1), net.pyramid(image), strict=True):
        assert torch.equal(found, image[..., ::stride, ::stride])


def test_odd_pixels_enter_at_full_scale_only():
    """Silence the full-scale entrance, and only pixels of even row and column bear on what is added."""
    net, image = small(width=32), torch.rand(1, 3, 24, 32, dtype=torch.float64, requires_grad=True)

    def pixels_that_count() -> Tensor:
        (gradient,) = torch.autograd.grad((net(image) - image).square().sum(), image)
        return gradient[0].abs().sum(dim=0) > 0

    assert pixels_that_count().all()
    torch.nn.init.zeros_(net.down[0][0].weight)
    even = torch.zeros(24, 32, dtype=torch.bool)
    even[::2, ::2] = True
    assert not (pixels_that_count() & ~even).any()
    assert pixels_that_count()[::2, ::2].any()


def test_training_drops_whole_channels_of_the_fused_maps():
    net, dropped = small(dropout=0.5, width=32).train(), []
    net.dropout.register_forward_hook(lambda _m, x, y: dropped.append((x[0], y)))
    net(torch.rand(2, 3, 16, 20, dtype=torch.float64))
    assert [before.shape[1:] for before, _ in dropped] == [(64, 8, 10), (32, 16, 20)]
    for before, after in dropped:
        silent = (after == 0).all(dim=(2, 3))
        assert 0 < silent.sum() < silent.numel()
        assert_close(after[~silent], 2 * before[~silent])


def test_nothing_is_dropped_in_evaluation_or_without_dropout():
    image = torch.rand(1, 3, 16, 20, dtype=torch.float64)
    for net in (small(dropout=0.5), small(dropout=0.0).train()):
        assert torch.equal(net(image), net(image))


def test_every_stage_names_a_map_of_its_channels_and_stride():
    net, shapes = small(residual_blocks=2), {}
    for stage in net.stages:
        module = net.get_submodule(stage.name)
        module.register_forward_hook(lambda _m, _x, y, name=stage.name: shapes.update({name: tuple(y.shape)}))
    net(torch.rand(2, 3, 32, 48, dtype=torch.float64))
    assert list(shapes) == [stage.name for stage in net.stages]
    assert shapes == {stage.name: (2, stage.channels, 32 // stage.stride, 48 // stage.stride) for stage in net.stages}
    assert {name for name, m in net.named_modules() if isinstance(m, ResidualBlock)} < set(shapes)


def test_an_odd_width_is_refused():
    with pytest.raises(ValueError, match="even number of channels as its width, not 5"):
        MIMOUNet(width=5)


# The parts, written out with plain operators


def convolve(x: Tensor, conv: torch.nn.Conv2d) -> Tensor:
    return F.conv2d(x, conv.weight, conv.bias, padding=conv.kernel_size[0] // 2)


def test_a_residual_block_does_not_clip_its_sum():
    block, x = ResidualBlock(3).double(), torch.randn(1, 3, 6, 5, dtype=torch.float64)
    assert_close(block(x), x + convolve(convolve(x, block.first[0]).clamp(min=0), block.second))
    assert (block(x) < 0).any()


def test_the_context_holds_the_image_before_its_features():
    context, image = Context(8).double(), torch.rand(1, 3, 6, 5, dtype=torch.float64)
    y = image
    for layer in context.features:
        y = convolve(y, layer[0]).clamp(min=0)
    assert y.shape[1] == 5
    assert_close(context(image), convolve(torch.cat((image, y), dim=1), context.project))


def test_fusion_takes_the_finest_map_first():
    fuse, maps = Fuse(6, 4).double(), [torch.randn(1, c, 6, 5, dtype=torch.float64) for c in (1, 2, 3)]
    mixed = convolve(torch.cat(maps, dim=1), fuse.mix[0]).clamp(min=0)
    assert_close(fuse(*maps), convolve(mixed, fuse.smooth))
