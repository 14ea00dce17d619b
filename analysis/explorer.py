"""An explorer without a screen: an image, one network or two, a pixel; and what is inside, from a cache where it can.

Whatever is looked at is a `Panel`. An `Explorer` answers for it, draws it and writes it down with the command that
draws it again. What an answer needs of a network is kept: one run per image, from which every pixel's rows follow.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor, nn

from analysis.activation_figure import activation_panels
from analysis.activations import ScanCache
from analysis.attribution import Attribution
from analysis.attribution_figure import attribution_panels
from analysis.attributions import local_attribution
from analysis.erf import effective_receptive_field
from analysis.explorer_choices import bundled_images, bundled_networks
from analysis.field import ERF
from analysis.field_statistics import Number
from analysis.jobs import Progress
from analysis.module_rows import LEVELS
from analysis.panels import erf_panels, save_figure
from analysis.queries import query_positions
from analysis.recent import Recent
from analysis.regions import Box, around, check_box, middle_box
from analysis.row_map import ScanRow
from analysis.scan_rows import SCAN_LEVELS
from evssm.sidecar import write_sidecar
from evssm.stamp import image_sha256

VIEWS = {
    "maps": "what the pixel gathers in every module",
    "module": "what it gathers in one module",
    "field": "the effective receptive field of the output there",
    "region": "what a region of the output is made of (LAM)",
}
"""What a panel can show."""

REGION = 16
"""Edge in px of the region where none was drawn."""

MARGIN = 96
"""Pixels around a region that the network sees, at least."""

KEPT = 256 * 2**20
"""Bytes of answers that are kept, and as many again of what runs of networks left."""


class Seen(NamedTuple):
    """An attribution, the part of the image that the network saw for it, and the corner where that was cut."""

    attribution: Attribution
    image: Float[Tensor, "3 h w"]
    corner: tuple[int, int]


@dataclass(frozen=True)
class Panel:
    """What is looked at; `stage` is the module of the view "module", `box` the region of the view "region"."""

    image: str
    networks: tuple[str, ...]
    query: tuple[int, int]
    box: Box
    view: str = "maps"
    level: str = "A3"
    stage: str = ""

    def words(self) -> list[str]:
        """The panel as arguments of `evssm explore`."""
        row, column = self.query
        found = [*self.networks, "--image", self.image, "--view", self.view, "--query", f"{row},{column}"]
        if self.view in ("maps", "module"):
            found += ["--level", self.level]
        if self.view == "module":
            found += ["--stage", self.stage]
        if self.view == "region":
            found += ["--box", ",".join(map(str, self.box))]
        return found


class Explorer:
    """Answers for one panel after another. Safe for several threads, each of which may ask for its own panel.

    `open_images` and `open_networks` are functions by the names that `evssm explore` knows them by; they return `3 h w`
    in [0, 1] and image-to-image networks, which are the explorer's own from then on: in evaluation mode and frozen. By
    default they are those that come with the package. `words` are the arguments of `evssm explore` that say how
    images and networks were opened, where the names do not.
    """

    def __init__(
        self,
        open_images: Mapping[str, Callable[[], Tensor]] | None = None,
        open_networks: Mapping[str, Callable[[], Any]] | None = None,
        *,
        words: Sequence[str] = (),
        **choices: Any,
    ) -> None:
        """`choices` are those of `choose`; without any, the first image and network and the pixel in the middle."""
        self.images = dict(bundled_images() if open_images is None else open_images)
        self.networks = dict(bundled_networks() if open_networks is None else open_networks)
        if not self.images or not self.networks:
            raise ValueError("an explorer needs one image and one network or more")
        self._words = list(words)
        self._opened: dict[tuple[str, str], Any] = {}
        self._answers, self._traces = Recent(KEPT), Recent(KEPT)
        # Runs of a whole network are told apart from those of its modules, which are quick and may go on meanwhile;
        # only a trace, which listens to the modules, excludes both.
        self._running, self._listening = RLock(), RLock()
        image = choices.pop("image", next(iter(self.images)))
        h, w = self._open("image", image).shape[-2:]
        self.panel = Panel(image, (next(iter(self.networks)),), (h // 2, w // 2), middle_box(h, w, REGION, REGION))
        self.choose(**choices)

    # --- choosing ---------------------------------------------------------------------------------------------------

    def choose(self, **changes: Any) -> Panel:
        """The panel after these changes of its fields, from now on that of the explorer.

        Another image keeps the pixel and the region where they lie in it, and takes its middle otherwise. `ValueError`
        or `LookupError`, and the panel stays, for what does not exist.
        """
        image = changes.get("image", self.panel.image)
        h, w = self._open("image", image).shape[-2:]
        if image != self.panel.image:
            row, column = self.panel.query
            top, left, height, width = self.panel.box
            if row >= h or column >= w:
                changes = {"query": (h // 2, w // 2), **changes}
            if top + height > h or left + width > w:
                changes = {"box": middle_box(h, w, REGION, REGION), **changes}
        self.panel = self._checked(replace(self.panel, **changes), h, w)
        return self.panel

    def click(self, row: int, column: int) -> Panel:
        """The panel with the query at this pixel."""
        return self.choose(query=(row, column))

    def move(self, rows: int, columns: int) -> Panel:
        """The panel with the query so many pixels further down and to the right, at most at the border."""
        h, w = self.image().shape[-2:]
        row, column = self.panel.query
        return self.click(min(max(row + rows, 0), h - 1), min(max(column + columns, 0), w - 1))

    def _checked(self, panel: Panel, h: int, w: int) -> Panel:
        if panel.view not in VIEWS:
            raise ValueError(f'no view "{panel.view}"; choose from {", ".join(VIEWS)}')
        if panel.level not in LEVELS:
            raise ValueError(f'no level "{panel.level}" of a row; choose from {", ".join(LEVELS)}')
        if not 1 <= len(panel.networks) <= 2 or len(set(panel.networks)) < len(panel.networks):
            raise ValueError(f"one network, or two side by side; got {', '.join(panel.networks) or 'none'}")
        if unknown := [name for name in panel.networks if name not in self.networks]:
            raise LookupError(f"no network {unknown[0]} here; there are {', '.join(self.networks)}")
        (query,) = query_positions([panel.query], h, w)
        panel = replace(panel, query=query, box=check_box(panel.box, h, w))
        if panel.view == "module" and not panel.stage:
            panel = replace(panel, stage=self.stages(panel)[-1])
        return panel

    # --- what there is ----------------------------------------------------------------------------------------------

    def image(self, panel: Panel | None = None) -> Float[Tensor, "3 h w"]:
        """The image of the panel."""
        return self._open("image", (panel or self.panel).image)

    def stages(self, panel: Panel | None = None) -> list[str]:
        """The modules of the panel's first network that scans; `LookupError` where none does."""
        return next(iter(self._tracing(panel or self.panel).values())).names

    def levels(self, panel: Panel | None = None) -> list[str]:
        """The levels at which every scanning network of the panel has rows."""
        bare = any(site.bare for trace in self._tracing(panel or self.panel).values() for site in trace.sites.values())
        return list(SCAN_LEVELS if bare else LEVELS)

    def prepare(self, panel: Panel | None = None) -> None:
        """Opens the panel's networks and runs each once, after which rows come from what that left."""
        panel = panel or self.panel
        for name in panel.networks:
            self._trace(panel, name)

    def prepared(self, panel: Panel | None = None) -> bool:
        """Whether the panel's rows come without another run of a whole network."""
        panel = panel or self.panel
        return all((panel.image, name) in self._traces for name in panel.networks)

    # --- answers ----------------------------------------------------------------------------------------------------

    def answer(self, panel: Panel | None = None, progress: Progress | None = None) -> dict[str, Any]:
        """What the panel shows, by network: rows by module, an `ERF`, or an attribution as `Seen`.

        `progress` is called with (done, total) steps; what it raises ends the computation, and what was finished until
        then is kept. Raises `LookupError` for rows where no network of the panel scans.
        """
        panel = panel or self.panel
        if panel.view == "maps":
            return dict(self.rows(panel, progress))
        if panel.view == "module":
            return {name: {row.stage: row} for name, row in self.focus(panel).items()}
        one = self._field if panel.view == "field" else self._region
        return {
            name: one(panel, name, _part(progress, k, len(panel.networks))) for k, name in enumerate(panel.networks)
        }

    def rows(self, panel: Panel | None = None, progress: Progress | None = None) -> dict[str, dict[str, ScanRow]]:
        """The query's row in every module of every scanning network of the panel."""
        panel = panel or self.panel
        traces = self._tracing(panel)
        found: dict[str, dict[str, ScanRow]] = {name: {} for name in traces}
        total, done = sum(len(trace.names) for trace in traces.values()), 0
        for name, trace in traces.items():
            for stage in trace.names:
                found[name][stage] = self._row(panel, name, stage)
                done += 1
                if progress is not None:
                    progress(done, total)
        return found

    def rows_of(
        self, queries: Sequence[tuple[int, int]], panel: Panel | None = None
    ) -> dict[str, dict[str, list[ScanRow]]]:
        """What `rows` answers to each of the queries in place of the panel's, made together and not kept."""
        panel = panel or self.panel
        with self._listening:
            return {
                name: trace.rows_of(queries, level=panel.level, keep_channels=False)
                for name, trace in self._tracing(panel).items()
            }

    def focus(self, panel: Panel | None = None) -> dict[str, ScanRow]:
        """The query's row in the module of the panel, or in the last where it names none, of every network with it."""
        panel = panel or self.panel
        traces = self._tracing(panel)
        stage = panel.stage or next(iter(traces.values())).names[-1]
        found = {name: self._row(panel, name, stage) for name, trace in traces.items() if stage in trace.names}
        if not found:
            there = {stage: None for trace in traces.values() for stage in trace.names}
            raise LookupError(f"no module {stage} scans here; there are {', '.join(there)}")
        return found

    def checks(self, panel: Panel | None = None) -> dict[str, float]:
        """The largest relative error, by network, with which the panel's rows rebuild what their scans return."""
        panel = panel or self.panel
        rows = self.answer(replace(panel, view="module" if panel.view == "module" else "maps"))
        return {name: max(row.check() for row in of_one.values()) for name, of_one in rows.items()}

    # --- pictures ---------------------------------------------------------------------------------------------------

    def figure(self, panel: Panel | None = None, *, width: Number = 7.16, columns: int = 7) -> Figure:
        """The panel as a figure `width` inches wide; it is computed first where it is not held."""
        panel = panel or self.panel
        mpl.get_backend()  # chosen now: one that is chosen within a style shows a notebook's first figure alone
        found = self.answer(panel)
        if panel.view in ("maps", "module"):
            notes = {name: f"rows rebuild their scans to {error:.0e}" for name, error in self.checks(panel).items()}
            return activation_panels(found, self.image(panel), notes=notes, width=width, columns=columns)
        if panel.view == "region":
            first = next(iter(found.values()))
            maps = {name: {"lam": seen.attribution} for name, seen in found.items()}
            return attribution_panels(maps, first.image, corner=first.corner, whole=self.image(panel), width=width)
        figure = erf_panels(found, width=width, columns=columns)
        (row, column), (h, w) = panel.query, self.image(panel).shape[-2:]
        for ax in figure.axes:
            if ax.images:  # not the scale
                for text in ax.texts:  # names of circles that leave the image
                    text.set(clip_on=True, clip_box=ax.bbox)
                ax.set(xlim=(-column - 0.5, w - column - 0.5), ylim=(h - row - 0.5, -row - 0.5))
        return figure

    def command(self, path: str | Path, panel: Panel | None = None, how: str = "--save") -> str:
        """The command that writes the panel to `path`, as a figure or with `how="--static"` as a page."""
        return shlex.join(["evssm", "explore", *(panel or self.panel).words(), *self._words, how, str(path)])

    def save(self, path: str | Path, panel: Panel | None = None) -> list[Path]:
        """The panel's PNG and PDF at `path`, with the command that draws it again inside, and a JSON file with its
        numbers and its provenance beside them; each whole or not at all."""
        panel = panel or self.panel
        path = Path(path).with_suffix("")
        command = self.command(path, panel)
        written = save_figure(self.figure(panel), path, command=command)
        facts = {"command": command, "panel": asdict(panel), "image": image_sha256(self.image(panel)[None])}
        answers = {name: _numbers(found) for name, found in self.answer(panel).items()}
        return [*written, write_sidecar(path.with_suffix(".json"), {**facts, "networks": answers})]

    # --- what is kept -----------------------------------------------------------------------------------------------

    def _open(self, kind: str, name: str) -> Any:
        """An image or a network, opened when it is first wanted."""
        shelf: Mapping[str, Callable[[], Any]] = self.images if kind == "image" else self.networks
        if name not in shelf:
            raise LookupError(f"no {kind} {name} here; there are {', '.join(shelf)}")
        with self._running:
            if (kind, name) not in self._opened:
                found = shelf[name]()
                self._opened[kind, name] = found if kind == "image" else _frozen(found)
            return self._opened[kind, name]

    def _tracing(self, panel: Panel) -> dict[str, ScanCache]:
        """The kept runs of those networks of the panel that scan; `LookupError` where none does."""
        found = {}
        for name in panel.networks:
            trace = self._trace(panel, name)
            if isinstance(trace, ScanCache):
                found[name] = trace
            else:
                reason = trace
        if not found:
            raise LookupError(f"{reason}; choose the view field or region for {', '.join(panel.networks)}")
        return found

    def _trace(self, panel: Panel, name: str) -> ScanCache | str:
        """One run of a network on the panel's image, or why there are no rows in it."""
        key = (panel.image, name)
        held = self._traces.get(key)
        if held is None:
            with self._running, self._listening:
                held = self._traces.get(key)
                if held is None:
                    held = _traced(self._open("network", name), self.image(panel))
                    self._traces.put(key, held, held.bytes if isinstance(held, ScanCache) else 0)
        return held

    def _row(self, panel: Panel, name: str, stage: str) -> ScanRow:
        key = (panel.image, name, stage, panel.level, panel.query)
        held = self._answers.get(key)
        if held is None:
            trace = self._trace(panel, name)
            assert isinstance(trace, ScanCache)
            with self._listening:
                held = trace.row(panel.query, stage, level=panel.level, keep_channels=False)
            self._answers.put(key, held, held.map.nbytes + held.support.nbytes)
        return held

    def _field(self, panel: Panel, name: str, progress: Progress | None) -> ERF:
        held = self._answers.get(self._key(panel, name))
        if held is None:
            net = self._open("network", name)
            with self._running:
                held = effective_receptive_field(
                    net, [self.image(panel)], queries=[panel.query], frame="whole", progress=progress
                )
            self._answers.put(self._key(panel, name), held, 2 * held.per_image.nbytes)
        return held

    def _region(self, panel: Panel, name: str, progress: Progress | None) -> Seen:
        held = self._answers.get(self._key(panel, name))
        if held is None:
            net = self._open("network", name)
            cut, box, corner = around(self.image(panel)[None], panel.box, MARGIN)
            with self._running:
                held = Seen(local_attribution(net, cut, box, progress=progress), cut[0], corner)
            self._answers.put(self._key(panel, name), held, held.attribution.per_channel.nbytes + cut.nbytes)
        return held

    def _key(self, panel: Panel, name: str) -> tuple[Any, ...]:
        """What the answer of the views "field" and "region" depends on."""
        return (panel.image, name, panel.view, panel.query if panel.view == "field" else panel.box)


def _traced(net: Any, image: Tensor) -> ScanCache | str:
    """One run of the network on the image; in words, why none of its scans can be seen."""
    try:
        return ScanCache(net, image)
    except LookupError as error:
        return str(error)


def _frozen(net: Any) -> Any:
    """The network in evaluation mode, its parameters without gradients: what every analysis would make of it for a
    while, so that none changes it under another."""
    if isinstance(net, nn.Module):
        for module in net.modules():
            module.training = False  # not .eval(): networks override it, some to fold their weights
        net.requires_grad_(False)
    return net


def _part(progress: Progress | None, k: int, of: int) -> Progress | None:
    """What the k-th of so many equal parts of a computation tells."""
    return None if progress is None else lambda done, total: progress(k * total + done, of * total)


def _numbers(found: Any) -> dict[str, Any]:
    """What a sidecar says of one network's answer."""
    if isinstance(found, ERF):
        return {"radius": {share: found.radius(share) for share in (0.5, 0.9)}, "made": found.provenance}
    if isinstance(found, Seen):
        return {**found.attribution.numbers(), "corner": found.corner, "made": found.attribution.provenance}
    return {
        stage: {"error": row.check(), "largest": float(np.abs(row.map).max()), "made": row.provenance}
        for stage, row in found.items()
    }
