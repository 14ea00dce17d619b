"""The explorer on a screen: ipywidgets and ipympl around an `Explorer`, in JupyterLab and, the same, under Voila.

At the left the image, whose pixels are clicked, and below it the chosen module's map, drawn at once; at the right the
panel as it would be saved, drawn when all of it is there. Computations run in a thread; widgets are only touched by
the thread that made them, which has an event loop wherever there is a screen.
"""

import asyncio
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.backend_bases import MouseButton
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from analysis.activation_plots import STAR, draw_activation
from analysis.explorer import VIEWS, Explorer, Panel
from analysis.jobs import Cancelled, Job
from analysis.module_rows import LEVELS
from analysis.panels import PAPER_STYLE
from analysis.regions import check_box
from evssm.images import crop_centre, decode_image, levels, write_image

LEFT, RIGHT, DPI = 400, 812, 100
"""Widths in px of the two sides, and dots per inch of the left one: together with the page's margins 1280 px."""

INCHES, COLUMNS = 5.9, 5
"""Width and columns of the panel at the right: smaller than in print, so that its text is larger on the screen."""

LARGEST = 512
"""Px to which either side of an uploaded photograph is cut, about its middle; larger ones are for `--image`."""

ARROWS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
STRIDE = 8
"""Px that an arrow key moves the query together with Shift."""

DRAG = 3
"""Px in each direction from which on a drawn box is one, and no click with an unsteady hand."""

TITLES = {"maps": "All modules", "module": "One module", "field": "Receptive field", "region": "Region (LAM)"}
HINT = (
    "Click a pixel of the image. Arrow keys move it, with Shift by 8 px. Drag a box to ask what that region is made of."
)


class ExplorerView:
    """Widgets around an explorer; `.widget` is what a cell ends with. Figures and uploads go to `folder`."""

    def __init__(self, explorer: Explorer, folder: str | Path = "explorer") -> None:
        self.explorer, self.folder = explorer, Path(folder)
        self.job: Job[Any] | None = None
        self._loop = _running_loop()
        self._pressed: tuple[float, float] | None = None
        self._silent, self._turn = False, 0
        self._make_controls()
        self.canvas = _canvas()
        self.picture = widgets.Image(format="png", layout=widgets.Layout(flex="0 1 auto", min_width="0", height="auto"))
        for event, handler in (
            ("button_press_event", self._press),
            ("motion_notify_event", self._drag),
            ("button_release_event", self._release),
            ("key_press_event", self._key),
        ):
            self.canvas.mpl_connect(event, handler)
        self.widget = self._arranged()
        self._changed()

    def wait(self) -> None:
        """Returns when the running computation has ended."""
        if self.job is not None:
            self.job.wait()

    # --- controls ---------------------------------------------------------------------------------------------------

    def _make_controls(self) -> None:
        panel, known = self.explorer.panel, list(self.explorer.networks)
        self.image = widgets.Dropdown(
            options=[(name, name) for name in self.explorer.images], value=panel.image, **_field("Image")
        )
        self.upload = widgets.FileUpload(
            accept="image/*", description="Own image", layout=widgets.Layout(width="150px")
        )
        self.network = widgets.Dropdown(options=known, value=panel.networks[0], **_field("Network"))
        beside = panel.networks[1] if len(panel.networks) == 2 else ""
        others = [("none", ""), *zip(known, known, strict=True)]
        self.beside = widgets.Dropdown(options=others, value=beside, **_field("Beside it"))
        self.view = widgets.ToggleButtons(
            options=[(TITLES[view], view) for view in VIEWS],
            tooltips=list(VIEWS.values()),
            value=panel.view,
            style={"button_width": "130px"},
        )
        self.level = widgets.Dropdown(options=[panel.level], value=panel.level, **_field("Level"))
        self.stage = widgets.Dropdown(options=[panel.stage], value=panel.stage, **_field("Module"))
        for control in (self.image, self.network, self.beside, self.view, self.level, self.stage):
            control.observe(self._chosen, names="value")
        self.upload.observe(self._uploaded, names="value")
        self.name = widgets.Text(placeholder="file name", layout=widgets.Layout(width="190px"))
        self.save = widgets.Button(description="Save figure", icon="save", tooltip="PNG, PDF and their provenance")
        self.save.on_click(lambda _: self._save())
        self.status = widgets.HTML(layout=widgets.Layout(flex="1 1 auto", margin="0 12px"))
        self.bar = widgets.FloatProgress(max=1, layout=widgets.Layout(width="220px", visibility="hidden"))
        self.cancel = widgets.Button(description="Cancel", icon="stop", layout=widgets.Layout(visibility="hidden"))
        self.cancel.on_click(lambda _: self._stop())

    def _arranged(self) -> widgets.VBox:
        row, middle = widgets.HBox, widgets.Layout(align_items="center", grid_gap="4px", flex_flow="row wrap")
        left = widgets.VBox([self.canvas], layout=widgets.Layout(width=f"{LEFT + 16}px", flex="0 0 auto"))
        return widgets.VBox(
            [
                widgets.HTML(f"<b>EVSSM explorer</b> &nbsp; <span style='opacity:.75'>{HINT}</span>"),
                row([self.image, self.upload, self.network, self.beside], layout=middle),
                row([self.view, self.level, self.stage], layout=middle),
                row([self.save, self.name, self.status, self.bar, self.cancel], layout=middle),
                row([left, self.picture], layout=widgets.Layout(align_items="flex-start", grid_gap="8px")),
            ]
        )

    def _chosen(self, _change: Any) -> None:
        """A control was changed, by a person or to show what is chosen."""
        if self._silent:
            return
        pair = [self.network.value, self.beside.value]
        self._choose(
            image=self.image.value,
            networks=tuple(dict.fromkeys(name for name in pair if name)),
            view=self.view.value,
            level=self.level.value,
            stage=self.stage.value,
        )

    def _choose(self, **changes: Any) -> None:
        """Changes the panel, or says why not; and shows it."""
        try:
            self.explorer.choose(**changes)
        except (ValueError, LookupError) as error:
            self._say(str(error), wrong=True)
            return
        self._changed()

    def _show_choices(self, stages: list[str], levels: list[str]) -> None:
        """Makes the controls say what is chosen; nothing is computed for that. Without stages no network scans."""
        panel, self._silent = self.explorer.panel, True
        try:
            modules = [(stage.removesuffix(".mixer"), stage) for stage in stages] or [("none scans", "")]
            kinds = [(f"{level}  {LEVELS[level]}", level) for level in levels] or [(panel.level, panel.level)]
            images = [(name, name) for name in self.explorer.images]
            for control, options in ((self.image, images), (self.stage, modules), (self.level, kinds)):
                if list(control.options) != options:  # each change is a message to the page
                    control.options = options
            self.stage.disabled = self.level.disabled = not stages
            self.image.value, self.view.value = panel.image, panel.view
            self.level.value = panel.level
            self.stage.value = (panel.stage or stages[-1]) if stages else ""
        finally:
            self._silent = False

    def _uploaded(self, _change: Any) -> None:
        """Keeps what was uploaded, cut about its middle, as a PNG in the folder, and shows that."""
        for file in self.upload.value:
            name = "".join(c if c.isalnum() or c in "-_." else "_" for c in Path(file["name"]).stem).lstrip(".")
            try:
                whole = decode_image(bytes(file["content"]), file["name"])
            except ValueError as error:
                self._say(str(error), wrong=True)
                return
            cut = crop_centre(whole, *(min(side, LARGEST) for side in whole.shape[-2:]))
            exact = bool(np.allclose(levels(cut, 8).numpy() / 255, cut.numpy(), atol=1e-6))
            self.folder.mkdir(parents=True, exist_ok=True)
            path = write_image(self.folder / f"{name or 'upload'}.png", cut, bits=8 if exact else 16)
            self.explorer.images[str(path)] = cut.clone
            self._choose(image=str(path))

    # --- mouse and keys ---------------------------------------------------------------------------------------------

    def _press(self, event: Any) -> None:
        if event.inaxes is not None and event.button == MouseButton.LEFT:
            self._pressed = (event.ydata, event.xdata)

    def _drag(self, event: Any) -> None:
        if self._pressed is not None and (box := self._box_to(event)):
            self._outline.set_bounds(box[1] - 0.5, box[0] - 0.5, box[3], box[2])
            self._outline.set_visible(True)
            self.canvas.draw_idle()

    def _release(self, event: Any) -> None:
        pressed, box = self._pressed, self._box_to(event)
        self._pressed = None
        if pressed is None:
            return
        if box is not None:
            self._choose(box=box, view="region")
        else:
            self._choose(query=tuple(int(np.floor(place + 0.5)) for place in pressed))

    def _box_to(self, event: Any) -> Any:
        """The region from where the button was pressed to this event, where that is large enough."""
        if self._pressed is None or event.inaxes is None:
            return None
        h, w = self.explorer.image().shape[-2:]
        ends = zip(self._pressed, (event.ydata, event.xdata), (h, w), strict=True)
        spans = [sorted(min(max(int(np.floor(at + 0.5)), 0), side - 1) for at in pair[:2]) for *pair, side in ends]
        (top, bottom), (left, right) = spans
        box = (top, left, bottom - top + 1, right - left + 1)
        return check_box(box, h, w) if min(box[2:]) > DRAG else None

    def _key(self, event: Any) -> None:
        way = ARROWS.get((event.key or "").removeprefix("shift+"))
        if way is not None:
            step = STRIDE if "shift+" in event.key else 1
            self.explorer.move(way[0] * step, way[1] * step)
            self._changed()

    # --- showing ----------------------------------------------------------------------------------------------------

    def _changed(self) -> None:
        """Shows the panel: the query and its map at once where that is quick, the rest when it is computed."""
        panel = self.explorer.panel
        self._stop()
        self._turn += 1
        turn = self._turn
        quick = self.explorer.prepared(panel)
        self._draw_left(panel, self._focus(panel) if quick else {})
        self._say("" if quick else "preparing; the first run compiles its kernels, which may take a minute")
        self.bar.value, self.bar.layout.visibility, self.cancel.layout.visibility = 0, "visible", "visible"
        self.job = Job(
            lambda progress: self._computed(panel, progress),
            told=lambda done, total: self._post(lambda: setattr(self.bar, "value", done / total)),
            ended=lambda job: self._post(lambda: self._finished(panel, job, turn, quick)),
        )

    def _computed(self, panel: Panel, progress: Callable[[int, int], object]) -> tuple[list[str], list[str]]:
        """Everything that is shown of a panel, now held; the stages and levels there are to choose from."""
        self.explorer.prepare(panel)
        progress(0, 1)
        self.explorer.answer(panel, progress)
        self._focus(panel)
        try:
            return self.explorer.stages(panel), self.explorer.levels(panel)
        except LookupError:
            return [], []

    def _focus(self, panel: Panel) -> dict[str, Any]:
        """The map of one module by network, none where nothing scans."""
        try:
            return dict(self.explorer.focus(panel))
        except LookupError:
            return {}

    def _finished(self, panel: Panel, job: Job[Any], turn: int, drawn: bool) -> None:
        """A computation has ended: shows what it found, the left side too unless that is `drawn`; nothing where
        something else was asked for since."""
        if turn != self._turn:
            return
        self.bar.layout.visibility = self.cancel.layout.visibility = "hidden"
        try:
            stages, levels = job.result()
            with _no_widgets():
                picture = _png(self.explorer.figure(panel, width=INCHES, columns=COLUMNS))
        except Cancelled:
            self._say("cancelled")
            return
        except Exception as error:  # a person is at the screen, and a traceback is for the log
            self._say(f"{error or type(error).__name__}", wrong=True)
            return
        self._show_choices(stages, levels)
        if not drawn:
            self._draw_left(panel, self._focus(panel))
        self.picture.value = picture
        row, column = panel.query
        checks = self.explorer.checks(panel) if stages else {}
        errors = ", ".join(f"{error:.0e}" for error in checks.values())
        self._say(f"pixel {row}, {column}" + (f"; rows rebuild their scans to {errors}" if errors else ""))

    def _draw_left(self, panel: Panel, focus: dict[str, Any]) -> None:
        """The image with the query and the region, below it the map of the chosen module of each network."""
        picture = self.explorer.image(panel).permute(1, 2, 0).numpy()
        h, w = picture.shape[:2]
        edge, title = LEFT * h / w, 22
        height = (1 + len(focus)) * (edge + title)
        figure: Figure = self.canvas.figure
        figure.clear()
        if (figure.get_size_inches() * DPI).round().tolist() != [LEFT, round(height)]:
            figure.set_size_inches(LEFT / DPI, round(height) / DPI)
            self.canvas.manager.resize(LEFT, round(height))
        for k, (name, row) in enumerate([("image", None), *focus.items()]):
            top = height - k * (edge + title) - title
            ax = figure.add_axes((0.005, (top - edge) / height, 0.99, edge / height))
            if row is None:
                ax.imshow(picture.clip(0, 1), interpolation="nearest")
                self._outline = _outline(panel)
                ax.add_patch(self._outline)
                ax.scatter(panel.query[1], panel.query[0], clip_on=False, **{**STAR, "s": 110})
                ax.set(xticks=[], yticks=[], xlim=(-0.5, w - 0.5), ylim=(h - 0.5, -0.5))
                ax.set_title(f"{panel.image}, {h} x {w} px", fontsize=9, pad=4)
            else:
                look = {"stride": row.stride, "size": row.size, "support": row.support, "untrained": row.untrained}
                draw_activation(ax, row.map, row.cell, **look)
                where = f"{row.stage.removesuffix('.mixer')}, {row.level}"
                ax.set_title(f"{name}: {where}", fontsize=9, pad=4)
        self.canvas.draw_idle()

    def _save(self) -> None:
        """Writes the panel into the folder, under the name that was typed or one that says what it shows."""
        panel = self.explorer.panel
        row, column = panel.query
        typed = "".join(c if c.isalnum() or c in "-_" else "_" for c in self.name.value.strip())
        if self.job is not None and not self.job.done:
            self._say("still computing; save when it is done", wrong=True)
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with _no_widgets():
                files = self.explorer.save(self.folder / (typed or f"{panel.view}_{row}_{column}"), panel)
        except (ValueError, OSError) as error:  # nobody sees what is raised on a page
            self._say(str(error), wrong=True)
            return
        command = escape(self.explorer.command(files[0].with_suffix(""), panel))
        self.status.value = f"saved {escape(', '.join(map(str, files)))}<br><code>{command}</code>"

    def _stop(self) -> None:
        if self.job is not None:
            self.job.cancel()

    def _say(self, text: str, *, wrong: bool = False) -> None:
        self.status.value = f"<span{' style=color:#c62828' if wrong else ''}>{escape(text)}</span>"

    def _post(self, act: Callable[[], object]) -> None:
        """Does so in the thread of the event loop, where there is one."""
        if self._loop is None or self._loop.is_closed():
            act()
        else:
            self._loop.call_soon_threadsafe(act)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _canvas() -> Any:
    """A canvas of its own, without frame and tools, whose keys are ours alone."""
    before = mpl.get_backend()
    from ipympl.backend_nbagg import Canvas, FigureManager

    if mpl.get_backend() != before:
        mpl.use(before)  # the import would make a widget of every figure of the process
    canvas = Canvas(Figure(figsize=(LEFT / DPI, LEFT / DPI), dpi=DPI, facecolor="white"))
    with warnings.catch_warnings():  # its toolbar hands traitlets an argument that this no longer wants
        warnings.simplefilter("ignore", DeprecationWarning)
        FigureManager(canvas, 0)
    if canvas.manager.key_press_handler_id is not None:
        canvas.mpl_disconnect(canvas.manager.key_press_handler_id)
    canvas.header_visible = canvas.footer_visible = canvas.toolbar_visible = canvas.resizable = False
    return canvas


@contextmanager
def _no_widgets() -> Iterator[None]:
    """Figures made meanwhile are pictures, also where somebody asked matplotlib for widgets."""
    before = mpl.get_backend()
    mpl.use("agg")
    try:
        yield
    finally:
        mpl.use(before)


def _outline(panel: Panel) -> Rectangle:
    """The region, where it is what is looked at."""
    top, left, height, width = panel.box
    look: dict[str, Any] = {"fill": False, "edgecolor": STAR["facecolor"], "linewidth": 1.4}
    halo = [withStroke(linewidth=3, foreground="white")]
    return Rectangle((left - 0.5, top - 0.5), width, height, visible=panel.view == "region", path_effects=halo, **look)


def _field(name: str) -> dict[str, Any]:
    return {
        "description": name,
        "style": {"description_width": "initial"},
        "layout": widgets.Layout(width="290px"),
    }


def _png(figure: Figure) -> bytes:
    """The figure, as wide as the right side where it is `INCHES` wide."""
    data = BytesIO()
    with plt.style.context(PAPER_STYLE):
        figure.savefig(data, format="png", dpi=RIGHT / INCHES)
    plt.close(figure)
    return data.getvalue()
