"""The explorer without a screen: its answers are those of the functions it calls; kept, stoppable, reproducible."""

import json
import re
import shlex
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from untouched import untouched

from analysis import explorer as explorer_module
from analysis.activations import ScanCache, activation_maps
from analysis.attributions import local_attribution
from analysis.erf import effective_receptive_field
from analysis.explorer import VIEWS, Explorer
from analysis.explorer_choices import bundled_images, bundled_networks
from analysis.jobs import Cancelled, Job
from analysis.module_rows import LEVELS
from analysis.scan_rows import SCAN_LEVELS
from evssm import build, selective_scan
from evssm.photographs import photographs_of

H, W = 16, 24


def tiny(name="evssm"):
    net = build(name, width=4, depths=(1, 1, 1)).double()
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return net


class Convolved(nn.Module):
    """A network without scans."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1).double()

    def forward(self, x):
        return self.conv(x).tanh()


def own_scan(x):
    """A network of one's own, of which only the scan is known."""
    u = x.flatten(2)
    ones = torch.ones_like(u)
    return selective_scan(u, ones / 9, -torch.ones(3, 1).to(u), ones[:, :1], ones[:, :1]).view_as(x)


def an_explorer(**choices):
    images = {name: torch.rand(3, H, W, dtype=torch.float64) for name in ("first", "second")}
    images["small"] = torch.rand(3, 16, 16, dtype=torch.float64)
    nets = {"a": tiny(), "b": tiny("evssm-no-geot"), "conv": Convolved(), "own": own_scan}
    explorer = Explorer(
        {name: lambda image=image: image for name, image in images.items()},
        {name: lambda net=net: net for name, net in nets.items()},
        **choices,
    )
    return explorer, images, nets


# --- what is looked at ------------------------------------------------------------------------------------------------


def test_it_begins_with_the_first_image_and_network_and_the_pixel_in_the_middle():
    panel = an_explorer()[0].panel
    assert (panel.image, panel.networks, panel.query, panel.view) == ("first", ("a",), (8, 12), "maps")


@pytest.mark.parametrize(
    ("way", "expected"), [((1, 0), (9, 12)), ((0, -1), (8, 11)), ((-99, 99), (0, 23)), ((99, -99), (15, 0))]
)
def test_the_query_moves_and_stops_at_the_border(way, expected):
    explorer, *_ = an_explorer()
    assert explorer.move(*way).query == expected == explorer.panel.query


def test_another_image_keeps_the_pixel_where_it_lies_in_it():
    explorer, *_ = an_explorer()
    explorer.click(3, 20)
    assert explorer.choose(image="second").query == (3, 20)
    assert explorer.choose(image="small").query == (8, 8)
    assert explorer.choose(image="small", query=(1, 2), box=(0, 0, 4, 4)).box == (0, 0, 4, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": (16, 0)}, "outside the image of 16 x 24"),
        ({"view": "clouds"}, 'no view "clouds"; choose from maps'),
        ({"level": "A8"}, 'no level "A8"'),
        ({"networks": ("a", "a")}, "one network, or two"),
        ({"networks": ()}, "got none"),
        ({"networks": ("a", "z")}, "no network z here; there are a, b"),
        ({"image": "third"}, "no image third here; there are first"),
        ({"box": (10, 10, 8, 8)}, "does not lie in the image"),
    ],
)
def test_what_does_not_exist_is_refused_and_the_panel_stays(changes, message):
    explorer, *_ = an_explorer()
    before = explorer.panel
    with pytest.raises((ValueError, LookupError), match=re.escape(message)):
        explorer.choose(**changes)
    assert explorer.panel == before


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["A3", "A7"])
def test_rows_are_those_of_activation_maps_for_both_networks(level):
    explorer, images, nets = an_explorer(networks=("a", "b"), level=level)
    explorer.click(5, 7)
    found = explorer.answer()
    for name in ("a", "b"):
        expected = activation_maps(nets[name], images["first"], (5, 7), level=level)
        assert list(found[name]) == list(expected)
        for stage, row in expected.items():
            np.testing.assert_array_equal(found[name][stage].map, row.map)
    assert max(explorer.checks().values()) < (1e-9 if level == "A3" else 1e-4)
    assert explorer.focus()["b"].stage == explorer.stages()[-1]


def test_the_field_is_that_of_the_query_and_the_region_s_attribution_is_lam():
    explorer, images, nets = an_explorer(networks=("conv", "a"), query=(2, 20), box=(4, 6, 8, 8))
    fields = explorer.answer(replace(explorer.panel, view="field"))
    regions = explorer.answer(replace(explorer.panel, view="region"))
    for name in ("conv", "a"):
        field = effective_receptive_field(nets[name], images["first"][None], queries=[(2, 20)], frame="whole")
        np.testing.assert_array_equal(fields[name].map, field.map)
        lam = local_attribution(nets[name], images["first"], (4, 6, 8, 8))
        np.testing.assert_array_equal(regions[name].attribution.map, lam.map)


def test_networks_without_scans_have_no_rows_but_do_not_hide_those_beside_them():
    explorer, *_ = an_explorer(networks=("conv", "a"))
    assert list(explorer.answer()) == ["a"]
    assert explorer.levels() == list(LEVELS)
    explorer.choose(networks=("conv",))
    with pytest.raises(LookupError, match=r"scan.*choose the view field or region for conv"):
        explorer.answer()


def test_of_scans_of_one_s_own_only_their_levels_are_offered():
    explorer, *_ = an_explorer(networks=("own",))
    assert explorer.levels() == list(SCAN_LEVELS)
    assert list(explorer.answer()["own"]) == ["scan.0"] == explorer.stages()
    assert explorer.checks()["own"] < 1e-9


def test_a_click_runs_no_network_again_and_a_second_look_computes_nothing(monkeypatch):
    explorer, *_ = an_explorer(networks=("a", "b"))
    assert not explorer.prepared()
    explorer.prepare()
    assert explorer.prepared()
    for name in ("a", "b"):
        monkeypatch.setattr(explorer._opened["network", name], "forward", None)
    explorer.click(3, 4)
    first = explorer.answer()
    monkeypatch.setattr(ScanCache, "row", None)
    again = explorer.answer()
    assert all(again[name][stage] is row for name, rows in first.items() for stage, row in rows.items())
    explorer.click(3, 5)
    with pytest.raises(TypeError):  # so that the two lines above would have noticed
        explorer.answer()


def test_what_is_kept_does_not_grow_without_end(monkeypatch):
    monkeypatch.setattr(explorer_module, "KEPT", 40_000)
    explorer, *_ = an_explorer()
    for column in range(W):
        explorer.click(0, column)
        explorer.answer()
    assert explorer._answers.bytes <= 40_000
    assert len(explorer._answers) > 1


@pytest.mark.parametrize(("view", "steps"), [("maps", 12), ("field", 6), ("region", 50)])
def test_a_long_computation_tells_its_steps_and_can_be_cancelled(view, steps):
    explorer, *_ = an_explorer(networks=("a", "b"), view=view)
    told = []

    def stop_at_the_third(done, total):
        told.append((done, total))
        if done == 3:
            raise Cancelled

    job = Job(lambda progress: explorer.answer(progress=lambda *at: (progress(*at), stop_at_the_third(*at))))
    with pytest.raises(Cancelled):
        job.result()
    assert told == [(1, steps), (2, steps), (3, steps)]
    told.clear()
    explorer.answer(progress=lambda *at: told.append(at))
    assert told[-1] == (steps, steps)


def test_clicks_are_answered_while_a_field_is_being_computed():
    """From another thread, between the two passes of the network that the field takes."""
    explorer, *_ = an_explorer()
    explorer.prepare()
    alone = [explorer.rows(replace(explorer.panel, query=(1, column))) for column in (2, 3)]
    explorer._answers = type(explorer._answers)(explorer_module.KEPT)
    among = []

    def look(done, _total):
        other = Job(lambda progress: explorer.rows(replace(explorer.panel, query=(1, 1 + done))))
        among.append(other.result(timeout=60))

    field = explorer.answer(replace(explorer.panel, view="field"), progress=look)["a"]
    assert len(among) == 3
    for one, other in zip(alone, among, strict=False):
        for stage, row in one["a"].items():
            np.testing.assert_array_equal(row.map, other["a"][stage].map)
    np.testing.assert_array_equal(field.map, an_explorer_s_field(explorer).map)


def an_explorer_s_field(explorer):
    """The same field, with nothing else going on."""
    net = explorer._opened["network", "a"]
    return effective_receptive_field(net, [explorer.image()], queries=[explorer.panel.query], frame="whole")


def test_its_networks_are_left_as_it_keeps_them():
    explorer, _, nets = an_explorer()
    explorer.prepare()
    assert not any(p.requires_grad for p in nets["a"].parameters())
    with untouched(nets["a"]):
        for view in VIEWS:
            explorer.choose(view=view)
            explorer.answer()


# --- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS)
def test_a_saved_panel_says_how_it_was_made_and_which_command_makes_it_again(view, tmp_path):
    explorer, *_ = an_explorer(networks=("a", "b"), view=view, words=["--seed", "3"])
    explorer.choose(query=(4, 9), level="A4", box=(2, 3, 8, 8))
    files = explorer.save(tmp_path / "made here")
    assert [path.name for path in files] == ["made here.png", "made here.pdf", "made here.json"]
    facts = json.loads(files[2].read_text())
    assert facts["command"] == Image.open(files[0]).text["evssm:command"]
    assert facts["command"].encode() in files[1].read_bytes()
    words = shlex.split(facts["command"])
    assert words[:4] == ["evssm", "explore", "a", "b"]
    options = dict(zip(words[4::2], words[5::2], strict=True))
    assert (options["--view"], options["--query"], options["--seed"]) == (view, "4,9", "3")
    assert options.get("--level") == ("A4" if view in ("maps", "module") else None)
    assert options.get("--box") == ("2,3,8,8" if view == "region" else None)
    assert options["--save"] == str(tmp_path / "made here")
    assert list(facts["networks"]) == ["a", "b"]
    assert facts["versions"]["torch"] == torch.__version__
    assert ("untrained weights" in texts(explorer.figure())) is True


def texts(figure):
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def test_the_field_is_drawn_where_the_image_lies():
    explorer, *_ = an_explorer(view="field", query=(2, 20))
    ax = explorer.figure().axes[0]
    assert ax.get_xlim() == (-20.5, 3.5)
    assert ax.get_ylim() == (13.5, -2.5)


def test_a_figure_may_be_narrower_than_in_print():
    explorer, *_ = an_explorer()
    assert explorer.figure(width=5.9, columns=3).get_figwidth() == 5.9


# --- what comes with the package --------------------------------------------------------------------------------------


def test_held_out_photographs_are_offered_blurred_and_sharp():
    images = bundled_images((32, 40))
    names = sorted(photographs_of("test"))
    assert list(images) == [*(f"{name}-blurred" for name in names), *names]
    blurred, sharp = images[f"{names[0]}-blurred"](), images[names[0]]()
    assert blurred.shape == sharp.shape == (3, 32, 40)
    steps = [image.diff(dim=-1).abs().mean() + image.diff(dim=-2).abs().mean() for image in (blurred, sharp)]
    assert steps[0] < steps[1]


def test_every_bundled_network_loads_by_its_name():
    networks = bundled_networks()
    assert next(iter(networks)) == "evssm-compact"
    assert networks["evssm-compact"]().provenance.trained
