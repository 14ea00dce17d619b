"""DeblurGAN against the official generator's numbers, and laws.

`golden/deblurgan.npz` holds, for runs of the official code (`KupynOrest/DeblurGAN`, 7363c59, and 2499a87 for the
reduced form), about 48 numbers of each array: of the float64 outputs and receptive field, strided by 4, and of the
float32 maps and gradient, strided as below. The official network takes and returns images in [-1, 1].
"""

from hashlib import sha256

import numpy as np
import pytest
import torch
from golden_numbers import Golden, official_shapes, with_ruled_weights
from layer_fields import back, columns_of, convolution, nothing_cut_off, transposed
from torch import nn
from torch.testing import assert_close
from weight_rule import ruled_image

from analysis import cost
from analysis.instance_norms import constant_statistics
from evssm.hooks import record
from evssm.models import build
from evssm.models.deblurgan import BLOCKS, NAMING, DeblurGAN, ResidualBlock, infer
from evssm.weights import from_official, to_official

GOLDEN = Golden("deblurgan.npz")
MAPS = {  # official name, our module, channel stride, pixel stride
    "model.3": ("embed", 8, 4),
    "model.9": ("down.1", 16, 1),
    "model.10": ("trunk.0", 16, 1),
    "model.18": ("trunk.8", 16, 1),
    "model.24": ("up.1", 8, 4),
    "model.27": ("output", 1, 2),
}


def golden_image():
    """The official input, -0.5 to 0.5, as ours in [0, 1]."""
    return ((ruled_image(73, 1, 3, 64, 64) - 0.5).double() + 1) / 2  # -0.5 was rounded to float32 where it was made


@pytest.fixture(scope="module")
def released():
    return with_ruled_weights(DeblurGAN(), NAMING)


def small(**arguments):
    """A float64 network of random weights that are large enough to be seen."""
    net = DeblurGAN(width=2, **arguments).double().eval().requires_grad_(False)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    return net


def test_output_maps_and_receptive_field_are_the_released_networks(released):
    image = golden_image().requires_grad_()
    with record(released, *(ours for ours, *_ in MAPS.values())) as maps:
        y = released(image)
    (gradient,) = torch.autograd.grad(y[0, :, 32, 32].sum(), image)  # image and output are halved alike
    assert GOLDEN.distance(2 * y[..., ::4, ::4] - 1, "deblurgan_64x64/out_f64") < 1e-10
    assert GOLDEN.distance(gradient[0].abs().sum(0)[::4, ::4], "deblurgan_64x64/erf_f64") < 1e-10
    assert GOLDEN.distance(gradient[0, :, ::2, ::2], "deblurgan_64x64/grad") < 1e-4
    for official, (ours, channels, pixels) in MAPS.items():
        sampled = maps[ours].tensor[:, ::channels, ::pixels, ::pixels]
        assert GOLDEN.distance(sampled, f"deblurgan_64x64/mid:{official}") < 1e-5, official


def test_single_precision_rounds_as_little_as_the_released_network(released):
    net = DeblurGAN()
    net.load_state_dict({name: value.float() for name, value in released.state_dict().items()})
    with torch.no_grad():
        found = 2 * net.eval()(golden_image().float())[..., ::4, ::4] - 1
    assert GOLDEN.distance(found, "deblurgan_64x64/out_f64") < 1e-5


def test_the_reduced_form_is_that_of_todays_repository():
    net = with_ruled_weights(DeblurGAN(convolutions=1), NAMING)
    assert GOLDEN.distance(2 * net(golden_image())[..., ::4, ::4] - 1, "deblurgan_head_64x64/out_f64") < 1e-10


@pytest.mark.parametrize(("convolutions", "parameters", "gmacs"), [(2, 11_378_179, 49.55), (1, 6_067_459, 27.81)])
def test_parameters_and_multiply_adds_are_the_published_codes(convolutions, parameters, gmacs):
    with torch.device("meta"):
        found = cost(DeblurGAN(convolutions=convolutions), 256)
    assert found.parameters == parameters
    assert found.conv_linear_macs / 1e9 == pytest.approx(gmacs, abs=0.005)


def test_the_official_state_dict_has_our_tensors_in_its_order():
    """The digest is of the contract's keys and shapes, a line `key:[sizes]` each."""
    with torch.device("meta"):
        shapes = official_shapes(DeblurGAN(), NAMING)
    lines = "\n".join(f"{key}:{list(shape)}" for key, shape in shapes.items())
    assert len(shapes) == 48
    assert sha256(lines.encode()).hexdigest() == "78a9fcb24329aae10a903da2e86596269e66a6c2b6bcead6b7e8fc9312a10484"


@pytest.mark.parametrize(
    "arguments", [{"convolutions": 2}, {"convolutions": 2, "dropout": 0.0}, {"convolutions": 1}], ids=str
)
def test_the_arguments_follow_from_an_official_state_dict(arguments):
    with torch.device("meta"):
        shapes = official_shapes(DeblurGAN(width=2, **arguments), NAMING)
    assert infer(shapes) == {"width": 2, **arguments}


def test_statistics_in_the_released_file_are_passed_over_and_nothing_else():
    net = build("deblurgan-compact")
    state = to_official(net)
    norms = {f"model.{place}": 12 for place in (2, "10.conv_block.2", "10.conv_block.7")}
    kept = {f"{norm}.{kind}": torch.rand(c) for norm, c in norms.items() for kind in ("running_mean", "running_var")}
    counters = {f"{norm}.num_batches_tracked": torch.tensor(3) for norm in norms}
    again = from_official("deblurgan", {**state, **kept, **counters})
    assert all(torch.equal(value, to_official(again)[key]) for key, value in state.items())
    with pytest.raises(ValueError, match=r"1 unexpected: model\.2\.weight"):
        from_official("deblurgan", {**state, "model.2.weight": torch.ones(12)})


def test_the_image_enters_and_leaves_between_0_and_1_and_the_sum_is_cut_off():
    net, image, seen = small(), torch.rand(1, 3, 16, 20, dtype=torch.float64), []
    net.embed.register_forward_hook(lambda _m, x, _y: seen.append(x[0]))
    nn.init.zeros_(net.output[1].weight)
    for bias, wanted in ((0.0, image), (0.2, (image + np.tanh(0.2) / 2).clamp(max=1)), (-50.0, (image - 0.5).clamp(0))):
        nn.init.constant_(net.output[1].bias, bias)
        assert_close(net(image), wanted)
    assert_close(seen[0], 2 * image - 1)


def test_a_block_adds_its_normalised_map_as_it_is():
    block, x = ResidualBlock(3, 2, 0.5).double().eval(), torch.randn(2, 3, 6, 5, dtype=torch.float64)
    added = block(x) - x
    assert_close(added.mean((2, 3)), torch.zeros(2, 3, dtype=torch.float64), rtol=0, atol=1e-12)
    assert (added < 0).any()


def test_dropout_is_for_training_and_can_be_left_out():
    image = torch.rand(1, 3, 16, 20, dtype=torch.float64)
    assert not torch.equal(small().train()(image), small().train()(image))
    for net in (small(), small(dropout=0.0).train()):
        assert torch.equal(net(image), net(image))


@pytest.mark.parametrize(("h", "w"), [(16, 16), (17, 30), (22, 45)])
def test_any_size_is_the_image_mirrored_to_its_right_and_below(h, w):
    net, image = small(), torch.rand(1, 3, h, w, dtype=torch.float64)
    mirrored = np.pad(image.numpy(), ((0, 0), (0, 0), (0, -h % 4), (0, -w % 4)), mode="reflect")
    assert_close(net(image), net(torch.from_numpy(mirrored))[..., :h, :w])


def test_one_convolution_or_two():
    with pytest.raises(ValueError, match="has two convolutions, or one as reduced, not 3"):
        DeblurGAN(convolutions=3)


# What a pixel sees: the convolutions' field, and the norms' floor under it


def field(net, image, column):
    x = image.clone().requires_grad_()
    with record(net, "output", grad=True) as maps:  # before the sum is cut off
        net(x)
    (gradient,) = torch.autograd.grad(maps["output"].tensor[..., 8, column].sum(), x)
    return gradient


def test_the_convolutions_see_what_their_layers_read_and_the_norms_everything():
    net, width, column = nothing_cut_off(DeblurGAN(width=2)), 256, 131
    image = torch.rand(1, 3, 16, width, dtype=torch.float64)
    trunk = [convolution(3)] * (2 * BLOCKS)
    down, up = [convolution(3, stride=2)] * 2, [transposed(3)] * 2
    read = back([column], convolution(7), *down, *trunk, *up, convolution(7))
    assert 0 < min(read) < max(read) < width - 1
    with constant_statistics(net):
        assert columns_of(field(net, image, column)) == read
    assert columns_of(field(net, image, column)) == frozenset(range(width))
