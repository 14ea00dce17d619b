"""The explorer's widgets without a browser: clicks, keys and drags arrive as matplotlib's events."""

import importlib
import json
from datetime import UTC, datetime
from importlib.util import find_spec
from io import BytesIO
from threading import Event

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.backend_bases import KeyEvent, MouseEvent
from PIL import Image

from analysis.explorer import Explorer
from evssm import build
from evssm.images import read_image

pytestmark = pytest.mark.skipif(
    find_spec("ipympl") is None, reason="the explorer's page is optional: pip install 'evssm-lab[explore]'"
)

H, W = 16, 24


@pytest.fixture
def view(tmp_path):
    nets = {name: build(name, width=4, depths=(1, 1, 1)) for name in ("evssm", "evssm-no-geot")}
    images = {name: torch.rand(3, H, W) for name in ("first", "second")}
    explorer = Explorer(
        {name: lambda image=image: image for name, image in images.items()},
        {name: lambda net=net: net for name, net in nets.items()},
    )
    made = importlib.import_module("analysis.explorer_view").ExplorerView(explorer, tmp_path / "out")
    made.wait()
    return made


def mouse(view, kind, row, column):
    """An event at the middle of a pixel of the image, or of the map below it."""
    ax = view.canvas.figure.axes[0]
    x, y = ax.transData.transform((column, row))
    view.canvas.callbacks.process(kind, MouseEvent(kind, view.canvas, x, y, button=1))


def click(view, row, column):
    mouse(view, "button_press_event", row, column)
    mouse(view, "button_release_event", row, column)
    view.wait()


def press(view, key):
    view.canvas.callbacks.process("key_press_event", KeyEvent("key_press_event", view.canvas, key))
    view.wait()


def shown(view):
    """The map below the image."""
    return np.asarray(view.canvas.figure.axes[1].images[0].get_array())


def test_figures_elsewhere_stay_what_they_were(view):
    """Importing ipympl would turn every later figure of the process into a widget."""
    assert not type(plt.figure().canvas).__module__.startswith("ipympl")
    plt.close("all")


def panel_of(view):
    return Image.open(BytesIO(view.picture.value))


def test_a_click_moves_the_star_and_changes_both_pictures(view):
    before, picture = shown(view).copy(), view.picture.value
    click(view, 3, 20)
    assert view.explorer.panel.query == (3, 20)
    star = view.canvas.figure.axes[0].collections[0].get_offsets()
    assert star.tolist() == [[20, 3]]
    assert not np.array_equal(before, shown(view))
    assert view.picture.value != picture
    assert panel_of(view).width == 812
    assert "pixel 3, 20; rows rebuild their scans to" in view.status.value


def test_the_map_shown_at_once_is_the_explorer_s(view):
    click(view, 9, 4)
    (row,) = view.explorer.focus().values()
    expected = np.log10(np.maximum(np.abs(row.map) / np.abs(row.map).max(), 1e-4))
    np.testing.assert_allclose(shown(view), expected)


def test_the_first_answer_to_a_click_waits_for_nothing_else(view, monkeypatch):
    """The rest hangs, and still the map of one module is there."""
    go_on = Event()
    rows = view.explorer.rows
    monkeypatch.setattr(view.explorer, "rows", lambda *given: (go_on.wait(), rows(*given))[1])
    before = shown(view).copy()
    mouse(view, "button_press_event", 2, 2)
    mouse(view, "button_release_event", 2, 2)
    assert not np.array_equal(before, shown(view))
    assert not view.job.done
    assert view.cancel.layout.visibility == "visible"
    go_on.set()
    view.wait()
    assert view.cancel.layout.visibility == "hidden"


@pytest.mark.parametrize(
    ("key", "expected"),
    [("up", (7, 12)), ("down", (9, 12)), ("left", (8, 11)), ("right", (8, 13)), ("shift+up", (0, 12)), ("q", (8, 12))],
)
def test_arrow_keys_move_the_query(view, key, expected):
    press(view, key)
    assert view.explorer.panel.query == expected


def test_a_drag_asks_for_the_region_and_a_shaky_click_does_not(view):
    mouse(view, "button_press_event", 2, 3)
    mouse(view, "motion_notify_event", 9, 14)
    assert view._outline.get_visible()
    assert view._outline.get_bbox().bounds == (2.5, 1.5, 12, 8)
    mouse(view, "button_release_event", 9, 14)
    view.wait()
    panel = view.explorer.panel
    assert (panel.view, panel.box, panel.query) == ("region", (2, 3, 8, 12), (8, 12))
    assert view.view.value == "region"
    mouse(view, "button_press_event", 5, 5)
    mouse(view, "button_release_event", 6, 7)
    view.wait()
    assert (view.explorer.panel.query, view.explorer.panel.box) == ((5, 5), (2, 3, 8, 12))


def test_controls_change_the_panel(view):
    view.beside.value = "evssm-no-geot"
    view.wait()
    assert view.explorer.panel.networks == ("evssm", "evssm-no-geot")
    assert len(view.canvas.figure.axes) == 3
    view.image.value = "second"
    view.level.value = "A1"
    view.stage.value = view.explorer.stages()[0]
    view.view.value = "module"
    view.wait()
    panel = view.explorer.panel
    assert (panel.image, panel.level, panel.view) == ("second", "A1", "module")
    assert panel.stage == view.explorer.stages()[0]
    view.beside.value = "evssm"  # the same as the first: one network
    view.wait()
    assert view.explorer.panel.networks == ("evssm",)


def test_a_long_computation_shows_how_far_it_is_and_stops_when_cancelled(view, monkeypatch):
    begun, go_on = Event(), Event()

    def slow(_panel, progress):
        progress(1, 4)
        begun.set()
        go_on.wait()
        progress(2, 4)
        raise AssertionError("not cancelled")

    monkeypatch.setattr(view.explorer, "answer", slow)
    picture = view.picture.value
    view.view.value = "field"
    begun.wait()
    assert view.bar.value == 0.25
    view.cancel.click()
    go_on.set()
    view.wait()
    assert "cancelled" in view.status.value
    assert view.picture.value == picture


def test_what_goes_wrong_is_said_in_a_line(view, monkeypatch):
    def fails(*_):
        raise RuntimeError("the <network> broke")

    monkeypatch.setattr(view.explorer, "answer", fails)
    view.view.value = "field"
    view.wait()
    assert "the &lt;network&gt; broke" in view.status.value


def test_a_save_lies_in_the_folder_whatever_name_was_typed(view, tmp_path):
    view.save.click()
    assert (tmp_path / "out" / "maps_8_12.png").exists()
    view.name.value = "../../elsewhere"
    view.save.click()
    facts = json.loads((tmp_path / "out" / "______elsewhere.json").read_text())
    assert facts["command"].startswith("evssm explore evssm --image first --view maps --query 8,12")
    assert "______elsewhere" in view.status.value
    assert {path.parent for path in tmp_path.rglob("*.json")} == {tmp_path / "out"}


def test_a_save_that_fails_is_told_on_the_page(view, tmp_path):
    (tmp_path / "out").write_text("a file where the folder should be")
    view.save.click()
    assert "color:#c62828" in view.status.value
    assert "File exists" in view.status.value


def uploaded(name, content):
    """A file as ipywidgets hands it over."""
    about = {"type": "", "size": len(content), "last_modified": datetime.now(UTC)}
    return {"name": name, "content": memoryview(content), **about}


def test_an_uploaded_image_is_kept_as_it_is_and_looked_at(view, tmp_path):
    pixels = np.random.default_rng().integers(0, 256, (20, 30, 3), dtype=np.uint8)
    data = BytesIO()
    Image.fromarray(pixels).save(data, format="PNG")
    view.upload.value = (uploaded("../my photo.png", data.getvalue()),)
    view.wait()
    kept = tmp_path / "out" / "my_photo.png"
    assert view.explorer.panel.image == str(kept) == view.image.value
    assert torch.equal(read_image(kept), view.explorer.image())
    np.testing.assert_array_equal((view.explorer.image() * 255).round().permute(1, 2, 0).numpy(), pixels)
    view.upload.value = (uploaded("notes.txt", b"no image"),)
    assert "notes.txt" in view.status.value
    assert view.explorer.panel.image == str(kept)
