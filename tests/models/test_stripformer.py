"""Stripformer against the released network's numbers, a slower second derivation of its attention, and laws.

`golden/stripformer.npz` holds, for each run of the official code (github.com/pp00704831/Stripformer-ECCV-2022-,
9efba88), about 48 numbers of each array: `every_nth` of the float64 output, strided by 4, and of the float32
maps, strided as below. Weights and images follow from `weight_rule`; the official network takes and returns
images minus 0.5.
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

from evssm.models.stripformer import (
    FFN,
    NAMING,
    InterStripAttention,
    IntraStripAttention,
    ResidualStep,
    StripBlock,
    Stripformer,
    attend,
    infer,
)
from evssm.naming import official_keys

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "stripformer.npz")
TINY = {"widths": (4, 6, 16), "decoder_width": 8, "trunk": 2, "decoder": 2}

OUTPUTS = {"stripformer_64x64": (50, (64, 64)), "stripformer_48x80": (51, (48, 80))}  # image seed and size
MAPS = {  # official name, our module, channel stride, pixel stride
    "encoder.en_layer3_1": ("down.1", 40, 1),
    "Trans_block_1": ("trunk.0", 40, 1),
    "Trans_block_2": ("trunk.1", 40, 1),
    "Trans_block_12": ("trunk.11", 40, 1),
    "decoder.de_block_6": ("decoder.5", 24, 2),
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


@pytest.fixture(scope="module")
def released() -> Stripformer:
    """The published network with the golden weights, in float64."""
    net = Stripformer()
    keys, state = official_keys(net, NAMING), ruled_state(official_shapes(net))
    net.load_state_dict({keys[official]: value for official, value in state.items()})
    return net.double().eval().requires_grad_(False)


def small() -> Stripformer:
    """A float64 network of random weights with all its levels and both kinds of blocks."""
    return Stripformer(**TINY, head=2).double().requires_grad_(False)


def randomised(part: nn.Module) -> nn.Module:
    for parameter in part.double().parameters():
        nn.init.normal_(parameter)
    return part.requires_grad_(False)


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_output_is_the_released_networks(released, name):
    seed, size = OUTPUTS[name]
    official_input = (ruled_image(seed, 1, 3, *size) - 0.5).double()  # rounded to float32 where it was made
    assert distance(released(official_input + 0.5)[..., ::4, ::4] - 0.5, f"{name}/out_f64") < 1e-10


def test_single_precision_rounds_as_little_as_the_released_network(released):
    net = Stripformer()
    net.load_state_dict({name: value.float() for name, value in released.state_dict().items()})
    with torch.no_grad():
        found = net(ruled_image(50, 1, 3, 64, 64))[..., ::4, ::4] - 0.5
    assert distance(found, "stripformer_64x64/out_f64") < 1e-5


def test_maps_in_between_are_the_released_networks(released):
    maps = {}
    handles = [
        released.get_submodule(ours).register_forward_hook(lambda _m, _x, y, key=official: maps.update({key: y}))
        for official, (ours, *_) in MAPS.items()
    ]
    released(ruled_image(50, 1, 3, 64, 64).double())
    for handle in handles:
        handle.remove()
    for official, (_, channels, pixels) in MAPS.items():
        sampled = maps[official][:, ::channels, ::pixels, ::pixels]
        assert distance(sampled, f"stripformer_64x64/mid:{official}") < 1e-5, official


def test_the_official_state_dict_has_our_tensors_in_its_order():
    """The digest is of the released checkpoint's keys and shapes, a line `key:[sizes]` each."""
    with torch.device("meta"):
        shapes = official_shapes(Stripformer())
    lines = "\n".join(f"{k}:{list(s)}" for k, s in shapes.items())
    assert len(shapes) == 370
    assert sum(map(np.prod, shapes.values())) == 19_708_611
    assert sha256(lines.encode()).hexdigest() == "b17cbec791d6cd893128d3c698151202e918d7f75f1854e9a958e3cbb5e005b1"
    assert infer(shapes) == {"widths": (64, 128, 320), "decoder_width": 192, "trunk": 12, "decoder": 6}


def test_the_arguments_follow_from_an_official_state_dict():
    with torch.device("meta"):
        assert infer(official_shapes(Stripformer(**TINY, head=2))) == TINY


def test_blocks_that_lost_their_keys_are_still_expected():
    """So that reading such a state dict reports them, instead of building a network without them."""
    with torch.device("meta"):
        shapes = official_shapes(Stripformer(**TINY, head=2))
        rest = {key: shape for key, shape in shapes.items() if not key.startswith("Trans_block")}
        assert set(official_shapes(Stripformer(**infer(rest), head=2))) > set(rest)


@pytest.mark.parametrize("h", range(16, 71))
def test_any_size_is_the_image_reflected_to_its_right_and_below(h):
    w = int(torch.randint(16, 71, ()))
    net, image = small(), torch.rand(1, 3, h, w, dtype=torch.float64)
    padded = torch.from_numpy(np.pad(image.numpy(), ((0, 0), (0, 0), (0, -h % 4), (0, -w % 4)), "reflect"))
    restored = net(image)
    assert restored.shape == image.shape
    assert_close(restored, net(padded)[..., :h, :w], rtol=1e-12, atol=1e-12)


def test_the_published_network_takes_a_prime_size(released):
    assert released(torch.rand(1, 3, 17, 23, dtype=torch.float64)).shape == (1, 3, 17, 23)


def test_a_batch_of_two_is_two_batches_of_one():
    net, images = small(), torch.rand(2, 3, 37, 26, dtype=torch.float64)
    assert_close(net(images), torch.cat([net(image[None]) for image in images]), rtol=1e-12, atol=1e-12)


def test_the_network_sees_a_grey_image_as_zero_and_adds_the_image_as_it_came():
    net, seen = small(), []
    net.embed.register_forward_hook(lambda _m, x, _y: seen.append(x[0]))
    for parameter in net.output.parameters():
        nn.init.zeros_(parameter)
    image = torch.rand(1, 3, 18, 21, dtype=torch.float64)
    assert torch.equal(net(image), image)
    net(torch.full_like(image, 0.5))
    assert torch.equal(seen[-1], torch.zeros_like(seen[-1]))


def test_the_residual_image_passes_the_leaky_relu():
    net, image = small(), torch.rand(1, 3, 16, 16, dtype=torch.float64)
    nn.init.zeros_(net.output[0].weight)
    net.output[0].bias[:] = torch.tensor([1.0, -1.0, 0.0])
    shift = torch.tensor([1.0, -0.2, 0.0], dtype=torch.float64).reshape(3, 1, 1)
    assert_close(net(image), image + shift)


def test_every_stage_names_a_map_of_its_channels_and_stride():
    net, shapes = small(), {}
    for stage in net.stages:
        module = net.get_submodule(stage.name)
        module.register_forward_hook(lambda _m, _x, y, name=stage.name: shapes.update({name: tuple(y.shape)}))
    net(torch.rand(2, 3, 32, 48, dtype=torch.float64))
    assert list(shapes) == [stage.name for stage in net.stages]
    assert shapes == {stage.name: (2, stage.channels, 32 // stage.stride, 48 // stage.stride) for stage in net.stages}
    assert {name for name, m in net.named_modules() if isinstance(m, StripBlock | ResidualStep)} <= set(shapes)


def test_blocks_look_within_strips_and_between_strips_in_turn():
    with torch.device("meta"):
        net = Stripformer()
    for blocks in (net.trunk, net.decoder):
        assert [type(block.mixer) for block in blocks[::2]] == [IntraStripAttention] * (len(blocks) // 2)
        assert [type(block.mixer) for block in blocks[1::2]] == [InterStripAttention] * (len(blocks) // 2)


# Attention along strips


def mix(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Softmax attention among tokens, `tokens numbers` each, one pair of tokens after the other."""
    y = np.zeros_like(v)
    for i in range(len(q)):
        scores = [np.exp(sum(q[i] * k[j]) / np.sqrt(q.shape[1])) for j in range(len(k))]
        for j, score in enumerate(scores):
            y[i] += score / sum(scores) * v[j]
    return y


def slow_intra(qkv: np.ndarray, head: int) -> np.ndarray:
    """`3c h w` -> `c h w`: the pixels of each row attend to each other, head by head."""
    q, k, v = np.split(qkv, 3)
    y = np.empty_like(v)
    for first in range(0, len(v), head):
        for row in range(v.shape[1]):
            part = (slice(first, first + head), row)
            y[part] = mix(q[part].T, k[part].T, v[part].T).T
    return y


def slow_inter(qkv: np.ndarray, head: int) -> np.ndarray:
    """`3c h w` -> `c h w`: whole rows attend to each other, head by head."""
    q, k, v = np.split(qkv, 3)
    y = np.empty_like(v)
    for first in range(0, len(v), head):
        rows = [np.stack([t[first : first + head, i].ravel() for i in range(v.shape[1])]) for t in (q, k, v)]
        for i, row in enumerate(mix(*rows)):
            y[first : first + head, i] = row.reshape(head, -1)
    return y


@pytest.mark.parametrize("size", [(3, 5), (4, 4)])
@pytest.mark.parametrize(
    ("kind", "rows", "columns", "slow"),
    [
        (IntraStripAttention, "within_rows", "within_columns", slow_intra),
        (InterStripAttention, "between_rows", "between_columns", slow_inter),
    ],
)
def test_attention_is_its_definition(size, kind, rows, columns, slow):
    part, x = randomised(kind(8, head=2)), torch.randn(2, 8, *size, dtype=torch.float64)
    x, halves = x / 8, []
    hidden = F.conv2d(x, part.project_in.weight, part.project_in.bias)
    for half, name in zip(hidden.split(4, dim=1), (rows, columns), strict=True):
        layer = part.get_submodule(name)
        qkv = torch.einsum("bchw,oc->bohw", half, layer.weight.reshape(12, 4)) + layer.bias.reshape(12, 1, 1)
        turned = qkv.numpy() if name == rows else qkv.mT.numpy()
        mixed = torch.from_numpy(np.stack([slow(one, 2) for one in turned]))
        halves.append(mixed if name == rows else mixed.mT)
    y = F.conv2d(torch.cat(halves, dim=1), part.project_out.weight, part.project_out.bias)
    assert_close(part(x), y, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("rows", "columns"),
    [("(b h) heads w c", "(b w) heads h c"), ("b heads h (c w)", "b heads w (c h)")],
)
def test_columns_are_the_rows_of_the_transposed_map(rows, columns):
    qkv = torch.randn(2, 5, 7, 18, dtype=torch.float64)
    assert_close(attend(qkv.transpose(1, 2), columns, 3), attend(qkv, rows, 3).mT)


def reach(part: nn.Module, h: int, w: int, i: int, j: int) -> Tensor:
    """`h w`, true where the pixel (i, j) of the result depends on the input."""
    x = torch.randn(1, 8, h, w, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(part(x)[0, :, i, j].sum(), x)
    return gradient[0].abs().sum(dim=0) > 0


def test_attention_within_strips_reaches_a_cross_and_between_strips_everything():
    cross = torch.zeros(5, 7, dtype=torch.bool)
    cross[3], cross[:, 2] = True, True
    assert torch.equal(reach(randomised(IntraStripAttention(8, head=2)), 5, 7, 3, 2), cross)
    assert reach(InterStripAttention(8, head=2).double(), 5, 7, 3, 2).all()


def test_a_block_adds_attention_then_the_feed_forward_part_then_the_position():
    block = randomised(StripBlock(8, IntraStripAttention(8, head=2)))
    x, p = torch.randn(2, 8, 3, 4, dtype=torch.float64), dict(block.named_parameters())

    def normalised(y: Tensor, name: str) -> Tensor:
        y = y - y.mean(dim=1, keepdim=True)
        y = y / (y.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()
        return y * p[f"{name}.weight"].reshape(8, 1, 1) + p[f"{name}.bias"].reshape(8, 1, 1)

    def linear(y: Tensor, name: str) -> Tensor:
        return torch.einsum("bchw,oc->bohw", y, p[f"{name}.weight"]) + p[f"{name}.bias"].reshape(-1, 1, 1)

    y = x + block.mixer(normalised(x, "norm1"))
    t = linear(normalised(y, "norm2"), "ffn.fc1")
    y = y + linear(0.5 * t * (1 + torch.erf(t / 2**0.5)), "ffn.fc2")
    y = y + F.conv2d(y, p["position.weight"], p["position.bias"], padding=1, groups=8)
    assert_close(block(x), y, rtol=1e-10, atol=1e-10)


def test_a_residual_step_is_its_formula():
    def act(y: Tensor) -> Tensor:
        return torch.where(y > 0, y, 0.2 * y)

    x, skip = torch.randn(2, 1, 3, 6, 5, dtype=torch.float64)
    for first, inputs in ((nn.Conv2d(3, 3, 3, padding=1), (x,)), (nn.Conv2d(6, 3, 1), (x, skip))):
        step = randomised(ResidualStep(first))
        y = act(step.first(torch.cat(inputs, dim=1)))
        y = F.conv2d(y, step.second.weight, step.second.bias, padding=1)
        assert_close(step(*inputs), act(y + x))


def test_the_feed_forward_part_starts_with_xavier_weights_and_almost_no_biases():
    part = FFN(64)
    bound = (6 / (64 + 256)) ** 0.5
    for layer in (part.fc1, part.fc2):
        assert layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)  # of a uniform draw
        assert 0 < layer.bias.abs().max() < 1e-5


def test_what_a_caller_gets_wrong_is_said():
    with pytest.raises(ValueError, match="heads of 32 channels do not divide half of 96; give a multiple of 64"):
        Stripformer(decoder_width=96)
