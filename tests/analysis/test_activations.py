"""Rows of a network's modules: in image coordinates, in all frames, from one run, and without a trace."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from explicit_scan import matrix
from torch import nn
from torch.testing import assert_close

from analysis import module_columns, module_rows
from analysis.activations import ScanCache, activation_maps, scan_column, scan_row, scanning_stages
from analysis.module_rows import LEVELS
from evssm.geometry import IDENTITY
from evssm.hooks import edit
from evssm.images import crop_centre
from evssm.mamba2 import Mamba2
from evssm.mixer import SS2D
from evssm.models import build
from evssm.photographs import photograph


def tiny(name="evssm", **overrides):
    """A network in float64 that turns through all four frames at its first level."""
    net = build(name, **{"width": 4, "depths": (4, 1, 1), **overrides}).double().eval()
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return net


def an_image(h=32, w=64):
    return torch.rand(3, h, w, dtype=torch.float64)


def hooks_of(net):
    return [hook for m in net.modules() for hook in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]


@pytest.mark.parametrize("name", ["evssm", "evssm-four-direction", "evssm-no-geot"])
def test_rows_lie_as_the_image_lies_in_all_frames(name):
    """The same row from the explicit matrix, its steps carried to pixels by turning the pixels' numbers."""
    net, image, query = tiny(name), an_image(8, 12), (5, 9)
    net.multiple = 4  # no padding: 8 x 12 maps at the first level keep the matrix small
    cache = ScanCache(net, image, "encoder.0.*" if name == "evssm" else "encoder.0.1")
    for site in cache._sites.values():
        numbers = torch.arange(96).reshape(8, 12)
        stored = site.frame(numbers)
        row = cache.row(query, site.name)
        expected = torch.zeros(8, 96, dtype=torch.float64)
        support = torch.zeros(96, dtype=torch.bool)
        for turn, scan in site.branch((slice(None), slice(None))).scans:
            place = turn(stored).flatten()  # step of the scan -> number of the image pixel
            t = int((place == query[0] * 12 + query[1]).nonzero())
            expected[:, place] += matrix(scan, "A3")[:, t]
            support[place[: t + 1]] = True
        assert_close(torch.from_numpy(row.per_channel.copy()).flatten(1), expected, rtol=1e-10, atol=1e-12)
        assert torch.equal(torch.from_numpy(row.support.copy()).flatten(), support)
        assert row.check() < 1e-10
        upright = cache.row((5, 6), site.name).support
        cache._sites[site.name] = replace(site, frame=IDENTITY)  # a map that is left as it is stored is noticed
        assert np.array_equal(cache.row((5, 6), site.name).support, upright) == (site.frame == IDENTITY)
        cache._sites[site.name] = site
    frames = {str(site.frame) for site in cache._sites.values()}
    assert len(frames) == (4 if name == "evssm" else 1)


def test_coordinates_come_home_through_all_48_blocks():
    """Coordinates run through the network's turns alone; what enters each block shows where its pixels lie."""
    h, w = 64, 96
    net = build("evssm", width=4).eval()
    places = torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")).float()
    for layer in (*net.down, *net.up):  # halving keeps the coordinates; the decoder takes them from the skips
        nn.init.zeros_(layer.conv.weight)
    for layer in net.down:
        layer.conv.weight.data[(0, 1), (0, 1), 1, 1] = 1
    start = torch.cat([places, torch.zeros(2, h, w)])[None]
    silent = {"*.mixer": torch.zeros_like, "*.ffn": torch.zeros_like, "embed": lambda _: start}
    with edit(net, silent):
        cache = ScanCache(net, torch.rand(3, h, w))
    assert len(cache.names) == 48
    for name, site in cache._sites.items():
        stride = site.stride
        rows, columns = (torch.arange(0, n, stride).float() + (stride - 1) / 2 for n in (h, w))
        middles = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
        assert torch.equal(site.frame.inverse(site.x[0, :2]), middles), name
        net.get_submodule(name).Ds.data.fill_(1e6)  # so that the query itself has the largest value of its row
        for query in ((37, 5), (0, 95)):
            row = cache.row(query, name, level="A4")
            peak = np.unravel_index(np.abs(row.map).argmax(), row.map.shape)
            assert peak == row.cell
            assert torch.equal(middles[:, *peak] // stride, torch.tensor(query).float() // stride), name


def test_four_successive_modules_gather_from_left_right_below_and_above():
    net, image, (r, c) = tiny(), an_image(), (13, 40)
    cache = ScanCache(net, image, "encoder.0.*")
    rows, columns = np.mgrid[:32, :64]
    expected = [
        (columns < c) | ((columns == c) & (rows <= r)),
        (columns > c) | ((columns == c) & (rows >= r)),
        (rows > r) | ((rows == r) & (columns >= c)),
        (rows < r) | ((rows == r) & (columns <= c)),
    ]
    for name, reach in zip(cache.names, expected, strict=True):
        row = cache.row((r, c), name)
        assert np.array_equal(row.support, reach)
        assert (row.per_channel[:, ~reach] == 0).all()
        assert np.array_equal(cache.row((r, c), name, kind="column").support, ~reach | (rows == r) & (columns == c))
    assert ScanCache(tiny("evssm-four-direction"), image).row((r, c), "encoder.0.0").support.all()


@pytest.mark.parametrize(
    ("name", "local"),
    [("evssm", False), ("evssm", (16, 8, 8)), ("evssm-four-direction", False), ("evssm-k3", False), ("evssm2", False)],
)
def test_every_level_of_every_module_passes_its_check(name, local):
    small = {"mixer": small_mamba2} if name == "evssm2" else {}
    net, image = tiny(name, local=local, **small, depths=(2, 1, 1)), an_image(17, 34)
    cache = ScanCache(net, image)
    for level in LEVELS:
        for row in cache.rows((14, 21), level=level).values():
            assert row.check() < 1e-4, row
            assert (row.per_channel[:, ~row.support] == 0).all()
            assert row.map[row.inside].shape == (-(-17 // row.stride), -(-34 // row.stride))
        for column in cache.rows((14, 21), level=level, kind="column").values():
            assert column.check() < 1e-4, column
            assert (column.per_channel[:, ~column.support] == 0).all()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("name", "local"), [("evssm", False), ("evssm", (16, 8, 8)), ("evssm-four-direction", False), ("evssm2", False)]
)
def test_a_column_is_the_rows_read_the_other_way_in_every_frame(name, local, level):
    small = {"mixer": small_mamba2} if name == "evssm2" else {}
    cache = ScanCache(tiny(name, local=local, **small), an_image(17, 34), "encoder.0.*")
    assert len({cache.site(stage).frame for stage in cache.names}) == (1 if name == "evssm-four-direction" else 4)
    here, there = (9, 21), (12, 18)
    for stage in cache.names:
        sent = cache.row(here, stage, level=level, kind="column").per_channel[:, *there]
        gathered = cache.row(there, stage, level=level).per_channel[:, *here]
        np.testing.assert_allclose(sent, gathered, rtol=1e-9, atol=1e-13)
    assert np.abs(gathered).max() > 0 or level == "A0"


def small_mamba2(width, window=None):
    return Mamba2(width, state=3, head=4, expand=2, window=window)


def test_rows_and_columns_in_float32_rebuild_the_output_at_256_pixels():
    image = crop_centre(photograph("coffee"), 256, 256)
    net = build("evssm-compact")
    cache = ScanCache(net, image, ["encoder.0.0", "encoder.1.1", "decoder.0.0"])
    for row in cache.rows((200, 131)).values():
        assert 0 < row.check() < 1e-4
    for level in LEVELS:
        assert 0 < cache.row((200, 131), "encoder.0.0", level=level, kind="column").check() < 1e-4


def test_one_run_answers_many_queries_as_fresh_runs_do():
    net, image = tiny(), an_image()
    cache = ScanCache(net, image)
    for query in ((3, 50), "centre"):
        again = cache.row(query, "decoder.2.0")
        fresh = scan_row(net, image, query, "decoder.2.0")
        np.testing.assert_array_equal(again.per_channel, fresh.per_channel)
        assert again.query == ((16, 32) if query == "centre" else query)
        assert again.provenance == fresh.provenance
    modules_channels_pixels = ((8, 4, 32 * 64), (2, 8, 16 * 32), (2, 16, 8 * 16))
    assert cache.bytes == sum(8 * modules * c * pixels for modules, c, pixels in modules_channels_pixels)
    maps = activation_maps(net, image, (3, 50), ["encoder.1.*", "decoder_level1.block0.attn"])
    assert list(maps) == ["encoder.1.0.mixer", "decoder.2.0.mixer"]
    np.testing.assert_array_equal(maps["decoder.2.0.mixer"].map, scan_row(net, image, (3, 50), "decoder.2.0").map)
    column = scan_column(net, image, (3, 50), "decoder.2.0")
    assert column.kind == "column"
    row = scan_row(net, image, (9, 5), "decoder.2.0")
    assert column.per_channel[:, 9, 5] == pytest.approx(row.per_channel[:, 3, 50], abs=1e-15)


def test_reductions_and_normalisations_are_what_they_say():
    cache = ScanCache(tiny(), an_image(), "encoder.0.1")

    def ask(**options):
        return cache.row((20, 30), "encoder.0.1", **options)

    alpha = ask().per_channel
    np.testing.assert_allclose(ask().map, np.abs(alpha).mean(0))
    np.testing.assert_allclose(ask(reduction="rms").map, np.sqrt((alpha**2).mean(0)))
    np.testing.assert_allclose(ask(reduction="signed").map, alpha.mean(0))
    site = cache._sites["encoder.0.1.mixer"]
    stored = site.frame.points((20, 30), 32, 64)
    z = site.mixer.in_proj.weight.chunk(2)[1] @ site.entering(site.x)[(0, ..., *stored)]
    weight = (site.mixer.out_proj.weight.norm(dim=0) * nn.functional.gelu(z).abs()).detach().numpy()
    np.testing.assert_allclose(ask(reduction="output").map, np.einsum("d,dhw->hw", weight, np.abs(alpha)) / len(alpha))
    assert np.abs(ask(normalisation="max", reduction="signed").map).max() == pytest.approx(1)
    assert np.abs(ask(normalisation="sum").map).sum() == pytest.approx(1)
    assert ask(keep_channels=False).per_channel is None
    with pytest.raises(ValueError, match="levels A0-A5"):
        ask(reduction="output", level="A7")


@pytest.mark.parametrize("fails", [False, True])
def test_the_network_is_handed_back_as_it_was(fails, monkeypatch):
    net, image = tiny().train(), an_image()
    frozen = net.encoder[0][0].mixer.in_proj.weight.requires_grad_(False)
    before = {name: p.clone() for name, p in net.named_parameters()}
    flags = {name: p.requires_grad for name, p in net.named_parameters()}
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    if fails:
        monkeypatch.setattr(module_rows, "_jacobian", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            activation_maps(net, image, (3, 4), level="A7")
        monkeypatch.setattr(module_columns, "_jacobian", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            scan_column(net, image, (3, 4), "encoder.0.0", level="A7")
        net.output.register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ScanCache(net, image)
        net.output._forward_hooks.clear()
    else:
        activation_maps(net, image, (3, 4), level="A7")
        scan_column(net, image, (3, 4), "encoder.0.0", level="A7")
    assert not hooks_of(net)
    assert all(module.training for module in net.modules())
    assert not frozen.requires_grad
    assert {name: p.requires_grad for name, p in net.named_parameters()} == flags
    assert all(p.grad is None and torch.equal(p, before[name]) for name, p in net.named_parameters())
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002
    assert torch.is_grad_enabled()


def test_rows_say_where_they_come_from():
    net = build("evssm-compact", local=(16, 8, 4))
    row = scan_row(net, torch.rand(3, 40, 48), (30, 40), "decoder.2.1", reduction="rms", trained=True)
    made = row.provenance
    assert (made["network"], made["level"], made["reduction"], made["query"]) == (
        "evssm-compact",
        "A3",
        "rms",
        [30, 40],
    )
    assert (made["window"], made["frame"], made["size"], made["dtype"]) == (16, "upright", [40, 48], "float32")
    assert made["trained"]
    assert not row.untrained
    assert scan_row(net, torch.rand(3, 40, 48), (30, 40), "decoder.2.1").untrained
    assert repr(row) == "ScanRow(decoder.2.1.mixer, A3 row of (30, 40), 40 x 48 px, stride 1)"
    with pytest.raises(ValueError, match="read-only"):
        row.map[0, 0] = 1


def test_padding_is_told_apart_from_the_image():
    row = scan_row(tiny("evssm-no-geot"), an_image(17, 20), (0, 5), "encoder.1.0")
    assert row.map.shape == (16, 16)
    assert row.inside == (slice(0, 9), slice(0, 10))
    assert row.share_inside() == pytest.approx(1)  # nothing comes before the first row but the image
    below = scan_row(tiny(), an_image(17, 20), (16, 19), "encoder.0.1")  # reads columns from the right
    assert 0 < below.share_inside() < 1


@pytest.mark.parametrize(
    ("error", "part", "ask"),
    [
        (
            LookupError,
            "no selective scan that can be seen",
            lambda: ScanCache(build("nafnet-compact"), torch.rand(3, 32, 32)),
        ),
        (LookupError, "no selective scan that can be seen", lambda: ScanCache(nn.Identity(), torch.rand(3, 32, 32))),
        (LookupError, "near it", lambda: scan_row(tiny(), an_image(), (0, 0), "encoder.7.0")),
        (LookupError, "nothing that matches 'embed' scans", lambda: scan_row(tiny(), an_image(), (0, 0), "embed")),
        (LookupError, "name one of them", lambda: scan_row(tiny(), an_image(), (0, 0), "encoder.0.*")),
        (
            LookupError,
            "not in this cache",
            lambda: ScanCache(tiny(), an_image(), "encoder.0.0").row((0, 0), "encoder.1.0"),
        ),
        (ValueError, "outside the image", lambda: scan_row(tiny(), an_image(), (32, 0), "encoder.0.0")),
        (ValueError, "one query at a time", lambda: scan_row(tiny(), an_image(), [(0, 0), (1, 1)], "encoder.0.0")),
        (ValueError, 'no query "grid"', lambda: scan_row(tiny(), an_image(), "grid", "encoder.0.0")),
        (ValueError, "choose from A0", lambda: scan_row(tiny(), an_image(), (0, 0), "encoder.0.0", level="B1")),
        (ValueError, "choose from row", lambda: scan_row(tiny(), an_image(), (0, 0), "encoder.0.0", kind="both")),
        (ValueError, "choose from abs", lambda: scan_row(tiny(), an_image(), (0, 0), "encoder.0.0", reduction="l2")),
        (ValueError, "none, max", lambda: scan_row(tiny(), an_image(), (0, 0), "encoder.0.0", normalisation="l2")),
        (ValueError, "float32", lambda: scan_row(tiny(), torch.rand(3, 32, 32), (0, 0), "encoder.0.0")),
        (ValueError, "one image", lambda: ScanCache(tiny(), torch.rand(2, 3, 32, 32, dtype=torch.float64))),
    ],
)
def test_what_cannot_be_answered_is_said_in_one_line(error, part, ask):
    with pytest.raises(error, match=part) as raised:
        ask()
    assert "\n" not in str(raised.value)


def test_scanning_stages_come_in_the_order_of_the_forward_pass():
    names = [stage.name for stage in scanning_stages(build("evssm-compact"), ["decoder.*", "encoder.2.1"])]
    assert names == ["encoder.2.1.mixer", *(f"decoder.{i}.{j}.mixer" for i in range(3) for j in range(2))]


@pytest.mark.parametrize("name", ["evssm", "evssm-four-direction", "evssm2"])
@pytest.mark.parametrize("kind", ["row", "column"])
def test_many_queries_together_are_answered_as_each_of_them_alone(name, kind):
    other = {"mixer": small_mamba2} if name == "evssm2" else {"local": (8, 8, 8)}
    cache = ScanCache(tiny(name, depths=(2, 1, 1), **other), an_image(16, 16), "encoder.0.*")
    queries, told = [(0, 0), (7, 9), "centre"], []
    for level in LEVELS:
        options = {"level": level, "kind": kind, "reduction": "signed"}
        told.clear()
        together = cache.rows_of(queries, progress=lambda *at: told.append(at), **options)
        assert list(together) == cache.names
        assert told[-1] == (len(cache.names), len(cache.names))
        for stage, rows in together.items():
            assert len(rows) == len(queries)
            for query, row in zip(queries, rows, strict=True):
                alone = cache.row(query, stage, **options)
                np.testing.assert_allclose(row.per_channel, alone.per_channel, rtol=1e-12, atol=1e-14)
                assert np.array_equal(row.support, alone.support)
                assert row.provenance == alone.provenance
                assert row.check() < 1e-5 if level == "A7" else row.check() < 1e-9
    (chosen,) = cache.rows_of(queries[:1], cache.names[0])
    assert chosen == cache.names[0]


def test_many_queries_of_one_stage_take_its_scans_apart_once(monkeypatch):
    cache, made = ScanCache(tiny(depths=(1, 1, 1)), an_image(16, 24)), []
    own = SS2D.each_scan
    monkeypatch.setattr(SS2D, "each_scan", lambda self, x: made.append(self) or own(self, x))
    cache.rows_of([(0, 0), (5, 6), (7, 8)], cache.names[:2])
    assert len(made) == 2
    cache.rows((0, 0))
    assert len(made) == 2 + len(cache.names)
