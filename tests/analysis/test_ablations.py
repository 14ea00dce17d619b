"""Ablations: published rows that exist, verdicts that follow from scores, and files from real (tiny) training."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from analysis.ablate import ablate, files_of, measure
from analysis.ablation_panel import AGAINST, SHOWN, UNDECIDED, draw_effects, effect_caption, effect_panel
from analysis.ablation_table import Measured, ablation_table, difference, verdicts
from analysis.ablations import ABLATIONS, published
from analysis.tasks import DEFOCUS, DUAL_PIXEL, ONE_SCENE
from evssm import MODELS, build, save
from evssm.data.motorcycle import COLUMNS, disparity
from evssm.data.pairs import Pair
from evssm.scores import Scores
from evssm.training.family import FAMILY

MEMBERS = {member.name for member in FAMILY}


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_method_has_a_network_that_is_trained_and_a_row_that_was_published(name):
    ablation = ABLATIONS[name]
    labels = [method.label for method in ablation.methods]
    assert len(set(labels)) == len(labels)
    for method in ablation.methods:
        assert not method.network or method.network in MEMBERS
        assert not method.paper or method.paper.split()[0] in MODELS
        assert published(ablation, method) is not None or not method.variant
    assert {label for claim in ablation.claims for label in claim} <= set(labels)


def test_the_published_numbers_are_those_of_the_supplement():
    # Read off Tables 9, 10, 12 and 13 of the supplement, independently of the file.
    def psnr(name, label):
        return published(ABLATIONS[name], ABLATIONS[name].method(label)).psnr

    assert (psnr("mamba2", "EVSSM2 w/o GeoT"), psnr("mamba2", "EVSSM2 w/ GeoT")) == (33.94, 34.19)
    assert (psnr("loss", "L1"), psnr("loss", "L1 and frequency")) == (33.86, 34.15)
    assert (psnr("ensemble", "w/o GeoT, ensemble"), psnr("ensemble", "EVSSM, ensemble")) == (34.14, 34.37)
    assert psnr("defocus", "EVSSM") == 26.16


def test_a_row_that_is_not_in_its_table_is_refused():
    from dataclasses import replace

    ablation = ABLATIONS["loss"]
    with pytest.raises(LookupError, match="Table 10 has no row 'L3 loss'"):
        published(ablation, replace(ablation.methods[0], variant="L3 loss"))


def scores(offset=0.0, seeds=2, images=12, noise=0.02):
    """PSNR that varies far more between images than between methods."""
    of_image = np.random.default_rng(3).normal(27, 3, images)
    return of_image + offset + np.random.default_rng().normal(0, noise, (seeds, images))


def measured(offset=0.0, **options):
    psnr = scores(offset, **options)
    return Measured(psnr, psnr / 40, psnr - 26, seconds=0.5, steps=1000, parameters=400_000, multiply_adds=2.5e9)


def test_a_difference_is_paired_by_image():
    verdict = difference("a over b", scores(0.2), scores(0.0))
    assert verdict.word == "shown"
    assert verdict.difference == pytest.approx(0.2, abs=0.03)
    assert difference("b over a", scores(0.0), scores(0.2)).word == "contradicted"


def test_images_that_disagree_show_nothing():
    ours = scores(0.0)
    theirs = ours + np.where(np.arange(12) % 2, 0.5, -0.5)
    assert difference("a over b", ours, theirs).word == "not shown"


def test_only_claims_whose_methods_were_measured_get_a_verdict():
    ablation = ABLATIONS["transforms"]
    found = verdicts(ablation, {"EVSSM": measured(0.3), "w/o T": measured()})
    assert [verdict.claim for verdict in found] == ["EVSSM scores higher than w/o T"]


def test_the_table_keeps_published_and_own_numbers_apart_and_says_how_each_was_made():
    ablation = ABLATIONS["loss"]
    text = ablation_table(ablation, {"L1": measured()}, data="test data", protocol="a protocol")
    (l1,) = [line for line in text.splitlines() if line.startswith("| L1 |")]
    cells = [cell.strip() for cell in l1.split("|")[1:-1]]
    assert cells[1] == "33.86 / 0.9673"
    assert cells[3] == "2"
    assert float(cells[4].split()[0]) == pytest.approx(scores().mean(), abs=0.05)
    assert "+-" in cells[4]
    (both,) = [line for line in text.splitlines() if line.startswith("| L1 and frequency |")]
    assert both.count("| - ") >= 7
    assert "not comparable in dB" in text
    assert "1000 training steps each; scores over 12 images of test data; a protocol" in text
    assert "    evssm train evssm --loss l1 --profile paper" in text


def test_effects_are_drawn_where_they_lie_in_the_colour_of_their_verdict():
    intervals = [(0.1, 0.3), (-0.4, -0.2), (-0.1, 0.3), (0.0, 0.0)]
    ax = draw_effects(plt.figure().add_subplot(), ["a", "b", "c", "d"], [0.2, -0.3, 0.1, np.nan], intervals)
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    assert [dot.get_xdata()[0] for dot in dots] == [0.2, -0.3, 0.1]
    assert [dot.get_color() for dot in dots] == [SHOWN, AGAINST, UNDECIDED]
    assert [text.get_text() for text in ax.texts] == ["not published"]
    low, high = ax.get_xlim()
    assert low == -high
    assert high > 0.4
    plt.close("all")


def test_the_panel_names_steps_and_untrained_weights():
    ablation, found = ABLATIONS["mamba2"], {"EVSSM2 w/o GeoT": measured(), "EVSSM2 w/ GeoT": measured(0.1)}
    figure = effect_panel(ablation, verdicts(ablation, found), found)
    assert "1000 training steps, 12 held-out images" in " ".join(figure.get_supxlabel().split())
    plt.close(figure)


@pytest.mark.parametrize("stacked", [False, True])
def test_published_effects_have_a_panel_where_there_are_any(stacked):
    for name, titles in (
        ("mamba2", ["published, full networks", "compact networks"]),
        ("transforms", ["compact networks"]),
    ):
        ablation = ABLATIONS[name]
        found = {method.label: measured(0.1 * i) for i, method in enumerate(ablation.methods)}
        figure = effect_panel(ablation, verdicts(ablation, found), found, stacked=stacked, captioned=False)
        assert [ax.get_title() for ax in figure.axes] == titles
        assert figure.get_supxlabel() == figure.get_suptitle() == ""
        if len(titles) == 2:
            figure.draw_without_rendering()
            first, second = (ax.get_position() for ax in figure.axes)
            assert first.y0 > second.y1 if stacked else first.x1 < second.x0
        plt.close(figure)


def test_seeds_are_found_by_their_names(tmp_path):
    files = {name: tmp_path / name for name in ("evssm-compact", "evssm-compact-seed2", "evssm-compact-l1", "nafnet")}
    assert list(files_of("evssm-compact", files)) == ["evssm-compact", "evssm-compact-seed2"]


def a_network(path, name="evssm-compact", seed=0):
    torch.manual_seed(seed)
    return save(build(name), path, steps=3, seed=seed, data="nothing", packed=True)


def test_an_ablation_leaves_a_table_a_picture_and_where_they_came_from_and_goes_on(tmp_path):
    pairs = [Pair(torch.rand(3, 32, 40), torch.rand(3, 32, 40), name) for name in ("one", "two", "three")]
    names = ("evssm-compact", "evssm-compact-seed1", "evssm-no-geot-compact")
    files = {name: a_network(tmp_path / f"{name}.safetensors", name.removesuffix("-seed1")) for name in names}
    out = tmp_path / "out"
    out.mkdir()
    written = ablate(ABLATIONS["ensemble"], files, pairs, "noise", out, command="evssm ablate")
    assert {path.suffix for path in written} == {".md", ".json", ".png", ".pdf"}
    facts = json.loads((out / "ensemble.json").read_text())
    assert facts["weights"]["EVSSM"] == {name: f"{name}.safetensors" for name in names[:2]}
    assert len(facts["claims"]) == 3
    tables = {path.name: path.read_bytes() for path in (out / "scores").glob("*.csv")}
    assert set(tables) == {f"{n}{e}.csv" for n in names for e in ("", "_x4-frames")}
    found = measure(ABLATIONS["ensemble"].method("EVSSM"), files, pairs, "noise", out / "scores")
    assert found.psnr.shape == (2, 3)
    taken = [row.seconds for name in names[:2] for row in Scores.load(out / "scores" / f"{name}.csv").rows]
    assert found.seconds == np.median(taken)
    assert {path.name: path.read_bytes() for path in (out / "scores").glob("*.csv")} == tables  # nothing ran again


def test_defocus_in_one_view_and_in_two_is_scored_and_shown_apart():
    single, dual = (ABLATIONS[name] for name in ("defocus", "dual-pixel"))
    assert (single.task, dual.task) == (DEFOCUS, DUAL_PIXEL)
    assert not {m.network for m in single.methods if m.network} & {m.network for m in dual.methods}
    found = {"IFAN": measured()}
    one, two = (ablation_table(ablation, found, data="d", protocol="p") for ablation in (single, dual))
    assert "| IFAN | 25.37 / 0.789 |" in one
    assert "| IFAN | - | - |" in two
    assert "Published" not in two.partition("\n\n")[2].partition("\n\n")[2]
    assert ONE_SCENE in one
    assert ONE_SCENE in two
    assert "paper's scale" in one
    assert "paper's scale" not in two


def test_what_is_said_of_the_scene_is_so():
    parts = [disparity()[:, slice(*columns)] for columns in COLUMNS.values()]
    ranges = [f"{part.min():.0f} to {part.max():.0f}" for part in parts]
    assert f"disparities of {ranges[0]} and of {ranges[1]} px" in ONE_SCENE


def test_methods_without_weights_keep_their_published_numbers(tmp_path):
    written = ablate(ABLATIONS["defocus"], {}, [], "nothing", tmp_path)
    assert {path.suffix for path in written} == {".md", ".json"}
    assert "| IFAN | 25.37 / 0.789 |" in (tmp_path / "defocus.md").read_text()


def test_a_panel_of_one_scene_says_so():
    for name, said in (
        ("defocus", "12 settings of the lens on a held-out part of one scene"),
        ("loss", "12 held-out images"),
    ):
        ablation = ABLATIONS[name]
        assert said in effect_caption(ablation, {ablation.methods[-1].label: measured()})
