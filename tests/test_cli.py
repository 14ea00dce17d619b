import csv
import io
import json
import os
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import typer
from PIL import Image

from analysis import ERF
from analysis.activations import scanning_stages
from analysis.attribution import load_attributions
from analysis.kept_rows import load_rows
from analysis.layer_attributions import load_layers
from evssm import build, load, save, stages
from evssm.cli import main
from evssm.cli.app import app


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs the command line in an empty folder: exit status, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["evssm", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return run


def photo(path, size=(40, 48), seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_list_shows_every_network_and_backend(run):
    status, out, _ = run("list")
    assert status == 0
    assert "evssm-four-direction" in out
    assert "reference: available" in out


def commands(group, above=()):
    """The words of every command, and of every group of commands."""
    for name, command in group.commands.items():
        yield (*above, name)
        yield from commands(command, (*above, name)) if hasattr(command, "commands") else ()


WATCHED = """
import sys
from evssm.cli import main
try:
    main()
except SystemExit as ended:
    print(ended.code, "torch" in sys.modules)
"""


@pytest.mark.parametrize("command", [(), *commands(typer.main.get_command(app))])
def test_help_shows_an_example_without_importing_torch(command):
    ended = subprocess.run(
        [sys.executable, "-c", WATCHED, *command, "--help"], capture_output=True, text=True, check=True
    )
    assert ended.stdout.splitlines()[-1] == "0 False"
    assert not command or "Example: evssm" in ended.stdout


def test_erf_leaves_a_picture_the_maps_and_a_sidecar_that_agree(run, tmp_path):
    photo(tmp_path / "a.png")
    photo(tmp_path / "b.png", seed=1)
    status, out, err = run(
        "erf", "nafnet-compact", "--untrained", "--image", tmp_path, "--size", "32x40", "--out", "made"
    )
    assert (status, err) == (0, "")
    assert out.split() == ["made/erf.png", "made/erf.pdf", "made/erf.json"]
    field = ERF.load(tmp_path / "made" / "erf_nafnet-compact.npz")
    assert field.map.shape == (32, 40)
    assert len(field.mass) == 2
    assert field.untrained
    facts = json.loads((tmp_path / "made" / "erf.json").read_text())
    assert facts["fields"]["nafnet-compact"]["radius"]["0.5"] == field.radius(0.5)
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["command"].startswith("evssm erf nafnet-compact --untrained")
    picture = Image.open(tmp_path / "made" / "erf.png")
    assert picture.text["evssm:command"] == facts["command"]


def test_a_second_run_reads_what_is_there_and_another_question_is_computed(run, tmp_path):
    image = photo(tmp_path / "a.png")
    words = ("erf", "nafnet-compact", "--untrained", "--image", image, "--size", "32", "--out", "made")
    kept = tmp_path / "made" / "erf_nafnet-compact.npz"
    run(*words)
    first = kept.stat().st_mtime_ns
    run(*words)
    assert kept.stat().st_mtime_ns == first
    run(*words, "--seed", 1)
    assert kept.stat().st_mtime_ns != first


def test_a_cluster_of_this_machine_gives_the_same_and_says_what_was_there(run, tmp_path):
    photo(tmp_path / "a.png")
    photo(tmp_path / "b.png", seed=1)
    words = ("erf", "nafnet-compact", "--untrained", "--image", tmp_path, "--size", "16")
    assert run(*words, "--out", "alone")[0] == 0
    status, _, err = run(*words, "--out", "many", "--cluster", "local", "--workers", 1)
    assert (status, err) == (0, "")
    alone, many = (ERF.load(tmp_path / name / "erf_nafnet-compact.npz") for name in ("alone", "many"))
    assert np.array_equal(alone.per_image, many.per_image)
    status, _, err = run(*words, "--out", "many", "--cluster", "local")
    assert (status, err) == (0, "evssm: 2 of 2 answers are in many/answers already, nothing to compute\n")
    status, _, err = run(*words, "--workers", 2)
    assert (status, err.count("\n")) == (2, 1)
    assert "--cluster local" in err


def test_several_images_leave_a_table_and_pictures_of_the_first(run, tmp_path):
    for number in range(3):
        photo(tmp_path / f"{number}.png", (40, 40 + number), seed=number)
    status, out, _ = run(
        *("attribute", "nafnet-compact", "--untrained", "--image", tmp_path, "--method", "gradient_x_input"),
        *("--pictures", 1, "--out", "made"),
    )
    assert status == 0
    assert "mean diffusion index" in out
    assert "of 3 images" in out
    assert [path.name for path in sorted((tmp_path / "made").glob("*.png"))] == ["attribution_0000_0.png"]
    rows = list(csv.DictReader((tmp_path / "made" / "attribution.csv").read_text().splitlines()))
    assert [row["image"] for row in rows] == [str(tmp_path / f"{number}.png") for number in range(3)]
    for row in rows:
        (held,) = load_attributions(tmp_path / "made" / "answers" / row["file"]).values()
        assert float(row["diffusion_index"]) == held.diffusion_index
    status, out, _ = run(
        *("activation", "evssm-compact", "--no-compare", "--untrained", "--image", tmp_path, "--stages", "encoder.0.*"),
        *("--pictures", 0, "--out", "made"),
    )
    assert status == 0
    rows = list(csv.DictReader((tmp_path / "made" / "activation.csv").read_text().splitlines()))
    assert len(rows) == 3 * 2
    assert all(float(row["error"]) < 1e-4 for row in rows)
    assert f"{max(float(row['error']) for row in rows):.1e}" in out


def test_trained_weights_are_read_and_the_picture_says_nothing_of_untrained_ones(run, tmp_path):
    save(build("nafnet-compact"), tmp_path / "weights.safetensors", steps=10, data="nothing real")
    image = photo(tmp_path / "a.png")
    status, *_ = run(
        "erf", "nafnet-compact", "--weights", "weights.safetensors", "--image", image, "--size", 32, "--out", "made"
    )
    assert status == 0
    assert not ERF.load(tmp_path / "made" / "erf_nafnet-compact.npz").untrained


def test_cost_prints_a_table_and_leaves_it_with_a_sidecar(run, tmp_path):
    (tmp_path / "own_cost.py").write_text(OWN)
    words = ("own_cost:Net", "--size", "32x48", "--published", "0.01")
    status, out, err = run("cost", *words, "--time", "--threads", 1, "--repeats", 1, "--out", "made")
    assert (status, err) == (0, "")
    assert out.splitlines()[-2:] == ["made/cost.csv", "made/cost.json"]
    assert "own_cost:Net: 228 parameters, input 1 x 3 x 32 x 48" in out
    assert out.count("published 10.000 M: nearest is") == 1
    assert out.count("of processor time; memory at most") == 1
    facts = json.loads((tmp_path / "made" / "cost.json").read_text())
    own = facts["networks"]["own_cost:Net"]
    assert own["total_macs"] == 32 * 48 * 9 * 25
    assert own["time"]["threads"] == 1
    assert facts["command"].startswith("evssm cost own_cost:Net")
    header, line = (tmp_path / "made" / "cost.csv").read_text().splitlines()
    row = dict(zip(header.split(","), line.split(","), strict=True))
    assert (row["network"], row["total_flops"]) == ("own_cost:Net", str(2 * 32 * 48 * 9 * 25))


def test_cost_knows_how_the_published_number_of_evssm_was_counted(run):
    status, out, _ = run("cost", "evssm", "nafnet-compact")
    assert status == 0
    assert out.count("published") == 1
    assert "nafnet-compact: 394,315 parameters" in out
    assert "17,129,472 parameters" in out
    assert "published 126.000 G: nearest is 126.296 G (+0.2%), as fvcore counts" in out


OWN = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 5, padding=2)
    def forward(self, x):
        return x + self.conv(x)

def sharpen(x):
    return 2 * x - nn.functional.avg_pool2d(x, 3, 1, 1)

def fussy(x):
    raise RuntimeError("sides must be multiples of 64")
"""


@pytest.mark.parametrize("name", ["Net", "sharpen"])
def test_a_network_of_ones_own_is_found_in_the_current_folder(run, tmp_path, name):
    module = f"own_{name.lower()}_{os.getpid()}"
    (tmp_path / f"{module}.py").write_text(OWN)
    image = photo(tmp_path / "a.png")
    status, _, err = run("erf", f"{module}:{name}", "--image", image, "--size", 32, "--out", "made")
    assert (status, err) == (0, "")
    support = ERF.load(next((tmp_path / "made").glob("*.npz"))).map > 0
    reach = 2 if name == "Net" else 1
    assert support.sum() == (2 * reach + 1) ** 2


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("erf", "evsm"), "near it: evssm"),
        (("erf", "evssm"), "--untrained"),
        (("erf", "evssm-compact", "--untrained", "--size", "big"), "neither N nor HxW"),
        (("erf", "evssm-compact", "--untrained", "--size", "8"), "16"),
        (("erf", "evssm-compact", "--untrained", "--size", "9999"), "cannot cut"),
        (("erf", "evssm-compact", "--untrained", "--size", "64", "--queries", "70,3"), "outside the image"),
        (("erf", "evssm-compact", "--untrained", "--size", "64", "--estimator", "sum"), "rss, abs"),
        (("erf", "evssm-compact", "--untrained", "--image", "missing.png"), "missing.png"),
        (("erf", "evssm-compact", "--untrained", "--image", "empty"), "no image in"),
        (("erf", "evssm-compact", "--weights", "zero.pth"), "zero.pth"),
        (("erf", "evssm-compact", "nafnet-compact", "--weights", "zero.pth"), "NAME=zero.pth"),
        (("erf", "evssm-compact", "--weights", "nafnet.safetensors"), "nafnet"),
        (("erf", "nosuchmodule:net"), "cannot import nosuchmodule"),
        (("erf", "json:nothing"), "has no nothing"),
        (("erf", "fussy:fussy"), "sides must be multiples of 64"),
        (("erf", "evssm-compact", "--untrained", "--size", "64", "--select", "0"), "returns one tensor"),
        (("erf", "evssm-compact", "--bogus"), "--bogus"),
        (("cost", "evsm"), "near it: evssm"),
        (("cost", "evssm-compact", "--size", "8"), "16"),
        (("cost", "evssm-compact", "--channels", "4"), "1 x 4 x 256 x 256"),
        (("cost", "evssm-compact", "--published", "-1"), "positive"),
        (("cost", "evssm-compact", "--time", "--dtype", "int3"), "float32, float64"),
        (("cost", "fussy:fussy"), "sides must be multiples of 64"),
        (("bogus",), "bogus"),
    ],
)
def test_what_the_caller_got_wrong_is_one_line_and_status_2_and_leaves_nothing(run, tmp_path, words, part):
    (tmp_path / "empty").mkdir()
    (tmp_path / "zero.pth").touch()
    (tmp_path / "fussy.py").write_text(OWN)
    save(build("nafnet-compact"), tmp_path / "nafnet.safetensors")
    before = {path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts}
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    assert err.startswith("evssm: ")
    assert err.count("\n") == 1
    assert part in err
    sys.modules.pop("fussy", None)
    left = {path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts} - before
    assert left <= {tmp_path / "erf", tmp_path / "erf" / "answers"}
    assert not any(path.is_file() for path in left)


SCANNING = """
import torch
from torch import nn

def scan(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False):
    h, ys = torch.zeros(*u.shape[:2], A.shape[1]), []
    for t in range(u.shape[-1]):
        step = delta[:, :, t, None]
        h = torch.exp(step * A) * h + step * B[:, None, :, t] * u[:, :, t, None]
        ys.append((h * C[:, None, :, t]).sum(-1))
    return torch.stack(ys, -1)

class Net(nn.Module):
    scan_functions = (scan,)

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.Conv2d(3, 7, 3, padding=1)

    def forward(self, x):
        line = self.mix(x).flatten(2)
        y = scan(x.flatten(2), line[:, :3].abs(), -torch.ones(3, 2), line[:, 3:5], line[:, 5:])
        return {"half": x[..., ::2, ::2], "full": x + y.view_as(x)}
"""


def test_a_network_of_ones_own_with_two_outputs_and_its_own_scan_is_judged_in_both_commands(run, tmp_path):
    module = f"own_scanning_{os.getpid()}"
    (tmp_path / f"{module}.py").write_text(SCANNING)
    photo(tmp_path / "a.png")
    photo(tmp_path / "b.png", seed=1)
    words = (f"{module}:Net", "--size", 16, "--check", "--out", "made")
    status, out, err = run("erf", *words, "--image", "a.png", "--image", "b.png", "--select", "full")
    assert (status, err) == (0, "")
    assert f"{module}:Net: order of importance " in out
    assert "made/erf_check.png" in out
    (facts,) = json.loads((tmp_path / "made" / "erf.json").read_text())["fields"].values()
    assert facts["made"]["select"] == "full"
    assert facts["check"]["says"] in out
    assert facts["check"]["weights"]["word"].startswith("depends")
    assert facts["check"]["images"]["counts"] == [1, 2]
    status, out, err = run("activation", *words, "--image", "a.png")
    assert (status, err) == (0, "")
    (rows,) = json.loads((tmp_path / "made" / "activation.json").read_text())["maps"].values()
    assert rows["scan.0"]["check"]["says"] in out
    assert rows["scan.0"]["error"] < 1e-5


def test_activation_leaves_a_picture_the_maps_and_their_checks(run, tmp_path):
    image = photo(tmp_path / "a.png", (33, 50))
    words = ("activation", "evssm-compact", "--untrained", "--image", image, "--query", "30,7", "--out", "made")
    status, out, err = run(*words, "--stages", "encoder.0.*")
    assert (status, err) == (0, "")
    *paths, last = out.splitlines()
    assert paths == ["made/activation.png", "made/activation.pdf", "made/activation.json"]
    assert "peak memory" in last
    facts = json.loads((tmp_path / "made" / "activation.json").read_text())
    names = ["evssm-compact", "evssm-four-direction-compact", "evssm-no-geot-compact"]
    assert list(facts["maps"]) == sorted(names)
    for name in names:
        rows = load_rows(tmp_path / "made" / f"activation_{name}.npz")
        assert list(rows) == [stage.name for stage in scanning_stages(build(name), ["encoder.0.*"])]
        for stage, row in rows.items():
            assert row.query == (30, 7)
            assert row.size == (33, 50)
            assert facts["maps"][name][stage]["error"] == row.check() < 1e-4
            assert row.untrained
    assert Image.open(tmp_path / "made" / "activation.png").text["evssm:command"] == facts["command"]
    kept = tmp_path / "made" / "activation_evssm-compact.npz"
    first = kept.stat().st_mtime_ns
    run(*words, "--stages", "encoder.0.*")
    assert kept.stat().st_mtime_ns == first


def test_activation_of_a_bundled_photograph_without_companions(run, tmp_path):
    status, out, err = run(
        *("activation", "evssm2-compact", "--untrained", "--no-compare", "--size", "48x32", "--out", "made"),
        *("--stages", "decoder.2.1", "--level", "A6", "--reduction", "signed", "--scale", "shared", "--local"),
    )
    assert (status, err) == (0, "")
    assert "reconstruction error" in out
    assert [path.name for path in (tmp_path / "made").glob("*.npz")] == ["activation_evssm2-compact.npz"]


def test_activation_shows_rows_or_columns_as_asked(run, tmp_path):
    net = ("evssm-compact", "--untrained", "--no-compare", "--size", "48x32", "--out", "made")
    answers = {}
    for kind, query in (("row", "7,30"), ("column", "40,9")):
        words = ("--stages", "encoder.0.*", "--level", "A7", "--kind", kind, "--query", query)
        status, _, err = run("activation", *net, *words)
        assert (status, err) == (0, "")
        answers[kind] = load_rows(tmp_path / "made" / "activation_evssm-compact.npz")
        facts = json.loads((tmp_path / "made" / "activation.json").read_text())
        assert all(row["made"]["kind"] == kind for row in facts["maps"]["evssm-compact"].values())
    for stage, column in answers["column"].items():
        assert column.kind == "column"
        assert column.check() < 1e-4
        assert column.support[7, 30] == answers["row"][stage].support[40, 9]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("evssm",), "--untrained"),
        (("evssm-compact", "--untrained", "--size", "32", "--kind", "diagonal"), "choose from row, column"),
        (("nafnet-compact", "--untrained", "--size", "32"), "no selective scan that can be seen"),
        (("evssm-compact", "--untrained", "--size", "32", "--query", "40,3"), "outside the image"),
        (("evssm-compact", "--untrained", "--size", "32", "--query", "top"), "ROW,COLUMN"),
        (("evssm-compact", "--untrained", "--size", "32", "--level", "A9"), "choose from A0"),
        (("evssm-compact", "--untrained", "--size", "32", "--stages", "encoder.9"), "near it"),
        (("evssm-compact", "--untrained", "--size", "32", "--reduction", "max"), "choose from abs"),
        (("evssm-compact", "--untrained", "--size", "32", "--scale", "page"), "each"),
        (("evssm-compact", "--untrained", "--size", "32", "--style", "jet"), "linear"),
        (("evssm-compact", "--untrained", "--image", "missing.png"), "missing.png"),
    ],
)
def test_activation_refuses_in_one_line_and_leaves_no_picture(run, tmp_path, words, part):
    status, out, err = run("activation", *words)
    assert (status, out) == (2, "")
    assert err.startswith("evssm: ")
    assert err.count("\n") == 1
    assert part in err
    assert not list(tmp_path.rglob("*.p*"))


def test_attribute_leaves_a_picture_the_maps_and_their_numbers_and_reads_them_again(run, tmp_path):
    words = ("attribute", "evssm-compact", "--untrained", "--image", photo(tmp_path / "a.png"), "--box", "10,20,8,12")
    asked = (*words, "--surroundings", "whole", "--steps", "3", "--out", "out")
    status, out, _ = run(*asked)
    assert status == 0
    made = json.loads((tmp_path / "out/attribution.json").read_text())
    found = load_attributions(tmp_path / "out/attribution_evssm-compact.npz")
    assert list(found) == ["lam", "integrated_gradients", "gradient_x_input", "occlusion"]
    for method, one in found.items():
        assert one.map.shape == (40, 48)
        assert one.box == (10, 20, 8, 12)
        assert made["maps"]["evssm-compact"][method]["diffusion_index"] == pytest.approx(one.diffusion_index)
        assert f"{method}: completeness gap" in out
    assert "peak memory" in out
    assert made["peak_memory_bytes"] > 2**20
    assert (tmp_path / "out/attribution.png").exists()
    before = (tmp_path / "out/attribution_evssm-compact.npz").read_bytes()
    assert run(*asked)[0] == 0
    assert (tmp_path / "out/attribution_evssm-compact.npz").read_bytes() == before


OWN_PAIR = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)
        from evssm.models.stages import Stage
        self.stages = (Stage("first", 4, 1), Stage("last", 3, 1))

    def forward(self, x):
        y = self.last(torch.relu(self.first(x)))
        return y[..., ::2, ::2], x + y
"""


@pytest.fixture
def own_pair(tmp_path):
    """A network of one's own with two outputs, of which the last is the image."""
    module = f"own_pair_{os.getpid()}"
    (tmp_path / f"{module}.py").write_text(OWN_PAIR)
    yield f"{module}:Net"
    sys.modules.pop(module, None)


def test_attribute_and_layers_judge_every_map_of_a_network_with_two_outputs(run, tmp_path, own_pair):
    photo(tmp_path / "a.png")
    words = (own_pair, "--image", "a.png", "--box", "10,12,8,9", "--surroundings", "whole", "--check", "--out", "made")
    made = tmp_path / "made"
    status, out, err = run("attribute", *words, "--select", "-1", "--steps", "2", "--method", "lam")
    assert (status, err) == (0, "")
    (one,) = json.loads((made / "attribution.json").read_text())["maps"].values()
    assert one["lam"]["check"]["says"] in out
    assert one["lam"]["check"]["order"]["baseline"] == "blur"
    assert one["lam"]["check"]["weights"]["word"].startswith("depends")
    assert one["lam"]["made"]["select"] == -1
    assert "made/attribution_check.png" in out
    status, out, err = run("layers", *words, "--select", "-1", "--stages", "first", "--kind", "gradient")
    assert (status, err) == (0, "")
    (one,) = json.loads((made / "layers.json").read_text())["maps"].values()
    assert list(one) == ["first"]
    assert one["first"]["check"]["says"] in out
    (held,) = load_layers(next(made.glob("layers_*.npz"))).values()
    assert held.map.shape == (40, 48)
    assert one["first"]["sum"] == held.map.sum()
    assert Image.open(made / "layers.png").text["evssm:command"].startswith(f"evssm layers {own_pair}")


def test_what_cannot_be_asked_of_layers_is_one_line(run, tmp_path, own_pair):
    photo(tmp_path / "a.png")
    for words, said in (
        (("--select", "-1", "--stages", "second"), "matches 'second'"),
        (("--select", "-1", "--kind", "slope"), "choose from activation"),
        ((), "select="),
        (("--select", "-1", "--box", "0,0,99,9"), "does not lie"),
    ):
        status, out, err = run("layers", own_pair, "--image", "a.png", "--box", "10,12,8,9", *words)
        assert (status, out) == (2, "")
        assert said in err
        assert err.count("\n") == 1
    assert not list(tmp_path.glob("layers/*.png"))


@pytest.mark.parametrize(
    ("command", "names"),
    [
        (("erf", "nafnet-compact", "--size", "32"), ["erf.png"]),
        (
            ("activation", "evssm-compact", "--size", "32", "--stages", "encoder.0.0", "--no-compare"),
            ["activation.png"],
        ),
        (("attribute", "nafnet-compact", "--size", "32", "--method", "gradient_x_input"), ["attribution.png"]),
        (("layers", "nafnet-compact", "--size", "32", "--stages", "encoder.0.*"), ["layers.png"]),
    ],
)
def test_a_picture_is_made_again_bit_for_bit_from_the_command_in_its_sidecar(run, tmp_path, command, names):
    photo(tmp_path / "a.png")
    assert run(*command, "--untrained", "--image", "a.png", "--seed", "3", "--out", "made")[0] == 0
    made = tmp_path / "made"
    first = {name: (made / name).read_bytes() for name in names}
    (sidecar,) = made.glob("*.json")
    program, *words = shlex.split(json.loads(sidecar.read_text())["command"])
    assert program == "evssm"
    shutil.rmtree(made)
    assert run(*words)[0] == 0
    assert {name: (made / name).read_bytes() for name in names} == first
    words[words.index("--seed") + 1] = "4"
    shutil.rmtree(made)
    assert run(*words)[0] == 0
    assert all(pixels(made / name) != pixels_of(first[name]) for name in names)


def pixels(path):
    return pixels_of(path.read_bytes())


def pixels_of(data):
    return Image.open(io.BytesIO(data)).tobytes()


def test_attribute_shows_the_network_no_more_than_the_surroundings(run, tmp_path):
    image = photo(tmp_path / "a.png", (160, 128))
    status, _, _ = run(
        *("attribute", "mimo-unet-compact", "--untrained", "--image", image, "--box", "70,66,16,16"),
        *("--surroundings", "4", "--method", "gradient_x_input", "--out", "out"),
    )
    assert status == 0
    made = json.loads((tmp_path / "out/attribution.json").read_text())
    assert made["seen"] == {"row": 64, "column": 32, "height": 32, "width": 64}
    assert load_attributions(tmp_path / "out/attribution_mimo-unet-compact.npz")["gradient_x_input"].box == (
        6,
        34,
        16,
        16,
    )


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--box", "10,20,90,12"), "does not lie"),
        (("--box", "left"), "centre"),
        (("--method", "deeplift"), "integrated_gradients"),
        (("--surroundings", "some"), "whole"),
        (("--baseline", "grey"), "black, mean, blur"),
        (("--steps", "0"), "steps"),
        (("--reduce", "max"), "grad, sum"),
    ],
)
def test_attribute_refuses_in_one_line_and_leaves_no_picture(run, tmp_path, words, part):
    image = photo(tmp_path / "a.png")
    status, _, err = run("attribute", "evssm-compact", "--untrained", "--image", image, "--out", "out", *words)
    assert status == 2
    assert part in err
    assert err.count("\n") == 1
    assert not list(tmp_path.glob("out/*.png"))


def test_trace_leaves_a_picture_and_a_row_per_stage(run, tmp_path):
    image, fine = photo(tmp_path / "a.png"), photo(tmp_path / "b.png", seed=1)
    status, out, _ = run("trace", "evssm-compact", image, "--untrained", "--normal", fine, "--out", "out")
    assert status == 0
    assert "peak memory" in out
    made = json.loads((tmp_path / "out/trace_evssm-compact.json").read_text())
    rows = (tmp_path / "out/trace_evssm-compact.csv").read_text().splitlines()
    assert made["factor"] == 2
    assert made["first_out_of_range"] is None
    assert rows[0].startswith("stage,stride,peak")
    assert len(rows) == 1 + len(stages(build("evssm-compact")))
    assert (tmp_path / "out/trace_evssm-compact.png").exists()


def test_trace_refuses_a_function_in_one_line(run, tmp_path):
    (tmp_path / "plain.py").write_text("def sharpen(x):\n    return 2 * x\n")
    status, _, err = run("trace", "plain:sharpen", photo(tmp_path / "a.png"))
    assert status == 2
    assert "nn.Module" in err


def test_a_trial_of_an_ablation_trains_measures_and_draws(run, tmp_path):
    status, _, err = run("ablate", "loss", "defocus", "--profile", "smoke", "--out", "trial")
    assert status == 0, err
    for kind in ("png", "md"):
        assert {path.stem for path in (tmp_path / "trial").glob(f"*.{kind}")} == {"loss", "defocus"}
    assert "6 training steps each" in (tmp_path / "trial" / "loss.md").read_text()


def test_training_leaves_weights_and_logs_and_is_not_repeated(run, tmp_path):
    words = ("train", "mimo-unet-plus-compact", "--profile", "smoke", "--out", "runs", "--seed", "2")
    status, out, err = run(*words)
    assert status == 0, err
    weights = tmp_path / "runs" / "mimo-unet-plus-compact-seed2.safetensors"
    assert out.split() == [str(weights.relative_to(tmp_path))]
    net = load(weights)
    assert (net.provenance.steps, net.provenance.seed) == (6, 2)
    assert "straight camera motion of 2-24 px" in net.provenance.data
    assert sorted(path.name for path in (tmp_path / "runs" / weights.stem).iterdir()) == ["log.csv", "validation.csv"]
    before = weights.read_bytes()
    assert run(*words)[0] == 0
    assert weights.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train",), "give the networks to train, or --family"),
        (("train", "evssm-compact", "--profile", "fast"), "no profile is called 'fast'"),
        (("train", "evssm-compact", "--loss", "l2"), "--loss is both or l1"),
        (("train", "evsm-compact", "--profile", "smoke"), "no network is called 'evsm-compact'"),
        (("train", "evssm-compact", "--batch", "3", "--accumulate", "2"), "does not divide into 2"),
        (("train", "evssm-compact", "--data", "nowhere"), "nowhere"),
        (("ablate", "table9"), "no ablation is called table9"),
        (("ablate", "--weights", "nowhere"), "no weights in nowhere"),
        (("ablate", "--extents", "six"), "--extents six is no list"),
    ],
)
def test_what_is_wrong_with_training_and_ablations_is_one_line(run, words, said):
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert said in err


OWN_CONVOLUTION = """
from torch import nn
def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1))
"""


@pytest.mark.parametrize(
    ("what", "columns", "lines"),
    [
        ("growth", "name,scans,stride", 3),
        ("structure", "map,stride,cells", 1),
        ("transfer", "direction,from,to", 8),
        ("causes", "row,column,height", 6),
    ],
)
def test_measure_leaves_a_picture_a_table_and_a_sidecar(run, tmp_path, what, columns, lines):
    (tmp_path / "own_measure.py").write_text(OWN_CONVOLUTION)
    photo(tmp_path / "a.png")
    words = ("--image", tmp_path / "a.png", "--sharp", tmp_path / "a.png", "--size", "24x40", "--out", "made")
    status, out, err = run("measure", what, "own_measure:net", *words)
    assert (status, err) == (0, "")
    stem = f"made/{what}_own_measure_net"
    assert out.split() == [f"{stem}{suffix}" for suffix in (".png", ".pdf", ".csv", ".json")]
    header, *rows = (tmp_path / f"{stem}.csv").read_text().splitlines()
    assert header.startswith(columns)
    assert len(rows) >= lines
    facts = json.loads((tmp_path / f"{stem}.json").read_text())
    assert facts["command"].startswith(f"evssm measure {what} own_measure:net")
    assert len(facts["rows"]) == len(rows)
    assert facts["made"]["size"] == [24, 40]
    assert Image.open(tmp_path / f"{stem}.png").text["evssm:command"] == facts["command"]


def test_measure_says_in_a_line_what_cannot_be_asked(run, tmp_path):
    image = photo(tmp_path / "a.png")
    for words, said in (
        (("alignment", "nafnet-compact", "--untrained", "--image", image), "--sharp"),
        (("modes", "nafnet-compact", "--untrained", "--image", image), "--window"),
        (("horizons", "nafnet-compact", "--untrained", "--image", image), "selective scan"),
        (("modes", "evssm-compact", "--untrained", "--image", image, "--window", "7"), "multiple of 4"),
        (("knock-outs", "nafnet-compact", "--untrained", "--image", image), "to knock out"),
        (("growth", "nafnet-compact", "--image", image, "--weights", "none.pth"), "none.pth"),
    ):
        status, _, err = run("measure", *words, "--size", 24)
        assert status == 2
        assert said in err
        assert err.count("\n") == 1


def test_every_choice_of_measure_is_explained_and_no_other_word_taken(run):
    from analysis.measures import MEASURES

    status, out, _ = run("measure", "--help")
    assert status == 0
    assert all(f" {what}: " in " ".join(out.split()) for what in MEASURES)
    status, _, err = run("measure", "hearts", "nafnet-compact")
    assert status == 2
    assert f"choose from {', '.join(MEASURES)}" in err


def test_the_selected_output_is_measured_and_traced(run, tmp_path, own_pair):
    photo(tmp_path / "a.png")
    words = (own_pair, "--image", "a.png", "--size", "24", "--out", "made")
    for what in ("structure", "half-planes"):
        assert run("measure", what, *words)[0] == 2
        status, _, err = run("measure", what, *words, "--select", "-1")
        assert (status, err) == (0, "")
    status, out, _ = run("trace", own_pair, "a.png", "--select", "-1", "--out", "made")
    assert status == 0
    assert "output: " in out


def test_figures_runs_the_projects_script_and_hands_its_status_on(run, tmp_path, monkeypatch):
    script = tmp_path / "make.py"
    monkeypatch.setattr("evssm.cli.figures.MAKER", script)
    status, _, err = run("figures")
    assert (status, err.count("\n")) == (2, 1)
    assert str(script) in err
    script.write_text("import pathlib, sys; pathlib.Path('asked').write_text(' '.join(sys.argv[1:])); sys.exit(3)")
    assert run("figures", "a", "b")[0] == 3
    assert (tmp_path / "asked").read_text() == "a b"


def test_figures_names_the_figures_that_there_are(tmp_path):
    words = [sys.executable, "-m", "evssm", "figures", "none"]
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "there are erf_networks, erf_transforms" in ended.stderr
