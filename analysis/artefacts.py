"""Where in a network an artefact begins: every stage's size over the image, and the state of its scans (EVSSM #21)."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from analysis.attributions import single_image
from analysis.borrow import borrowed
from analysis.module_rows import Site
from analysis.scan_health import ScanHealth, holding, seam, state_norm, wiping
from analysis.sensitivity import Select, chosen_output
from evssm.geometry import IDENTITY
from evssm.inference import Health
from evssm.mamba2 import Mamba2
from evssm.mixer import SS2D
from evssm.models.stages import Stage
from evssm.shapes import Image
from evssm.stamp import image_sha256, network_stamp
from evssm.windows import window_origins

CELL = 8
"""Image pixels per cell of the maps: a cell holds the largest value in it, so that no spot is lost."""

FACTOR = 10.0
"""How many times its usual size a stage may reach before it counts as out of range."""


@dataclass(frozen=True, eq=False)
class StageTrace:
    """One call of one stage on the image.

    `map` is the root mean square over channels, `h w` cells as the image lies, each the largest in it; NaN where values
    are not finite. `peak` is its largest finite value, reached around the image pixel `where`, `usual` the median over
    pixels, `largest` the largest absolute value in any channel, `not_finite` counts values. `seam` compares changes
    across window borders with those beside (`analysis.scan_health.seam`), `None` without windows; `scan` is for stages
    that scan.
    """

    name: str
    stride: int
    map: Float[np.ndarray, "h w"]
    peak: float
    where: tuple[int, int]
    usual: float
    largest: float
    not_finite: int
    seam: float | None = None
    scan: ScanHealth | None = None

    @property
    def excess(self) -> float:
        """peak / usual; infinite where values are not finite."""
        if self.not_finite:
            return float("inf")
        return self.peak / self.usual if self.usual else float("inf") if self.peak else 1.0


@dataclass(frozen=True, eq=False, repr=False)
class Trace:
    """The stages of a network on one image, in the order of the forward pass, and what it made of the image."""

    stages: tuple[StageTrace, ...]
    output: Float[np.ndarray, "_ h w"]
    health: Health
    provenance: dict[str, Any]

    def __repr__(self) -> str:
        first = self.first()
        return f"Trace({len(self.stages)} stages, first out of range: {first.name if first else 'none'})"

    @property
    def untrained(self) -> bool:
        """Whether the network is known to have untrained weights; a picture must say so."""
        return self.provenance.get("trained") is False

    def limits(self, factor: int | float = FACTOR, normal: "Trace | None" = None) -> list[float]:
        """For each stage the size above which it is out of range; infinite where it is not judged.

        `factor` times what it usually has on this image, the median over pixels; or, with the trace of an image on
        which the network works, `normal`, `factor` times the largest that it had there. Only the latter judges stages
        inside another one, what a block adds to its map, and the last: on a sound photograph a trained compact EVSSM
        had 18 and 48 times the median there, and 6.6 times in the others. `ValueError` where `normal` has other stages.
        """
        if normal is None:
            names = {stage.name for stage in self.stages}
            inner = [any(_is_part(stage.name, name) for name in names) for stage in self.stages]
            inner[-1] = True
            return [
                float("inf") if part else factor * stage.usual for stage, part in zip(self.stages, inner, strict=True)
            ]
        if [stage.name for stage in normal.stages] != [stage.name for stage in self.stages]:
            raise ValueError("the two traces have different stages; trace the same network with the same choice")
        return [factor * stage.peak for stage in normal.stages]

    def first(self, factor: int | float = FACTOR, normal: "Trace | None" = None) -> StageTrace | None:
        """The first stage that is out of range anywhere, or has values that are not finite; `None` if none is."""
        for stage, limit in zip(self.stages, self.limits(factor, normal), strict=True):
            if stage.not_finite or stage.peak > limit:
                return stage
        return None

    def first_map(self, factor: int | float = FACTOR, normal: "Trace | None" = None) -> Int[np.ndarray, "h w"]:
        """For each cell the number of the first stage that is out of range there, -1 where none is."""
        h, w = (ceil(side / CELL) for side in self.provenance["size"])
        first = np.full((h, w), -1)
        for number, (stage, limit) in enumerate(zip(self.stages, self.limits(factor, normal), strict=True)):
            out = ~(stage.map <= limit)  # also where it is not finite
            first[out & (first < 0)] = number
        return first


def trace(
    net: nn.Module,
    image: Tensor,
    *,
    states: bool = True,
    select: Select | None = None,
    trained: bool | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Trace:
    """How large every stage of `net` is over `image` (`c h w` or `1 c h w`), and how its scans fare.

    A network that publishes no `stages` is traced at every module without children that returns a map `b c h w`, taken
    to lie as the image does. Of `SS2D` and Mamba-2 stages the step sizes are looked at and, with `states`, the state's
    norm, which for `SS2D` takes as many scans as there are states. Maps are reduced as they are made; one pass without
    gradients.

    The network is handed back as it was, also after an exception. `select` picks the image of a network that returns
    several; `trained` says what you know about weights without a `provenance`; `progress` is called with (done, total)
    stages. Raises `LookupError` where there is nothing to trace.
    """
    x = single_image(net, image)
    size = (x.shape[-2], x.shape[-1])
    places = _places(net)
    found: list[StageTrace] = []

    def note(stage: StageTrace) -> None:
        found.append(stage)
        if progress is not None:
            progress(len(found), max(len(found), len(places)))

    with borrowed(net), torch.no_grad(), _watched(net, places, size, states, note):
        y = chosen_output(net(x.clone()), select)
    if not found:
        raise LookupError(
            f"no module of this {type(net).__name__} returned a map b c h w; give the network `stages`, a list of "
            "evssm.Stage(name, channels, stride)"
        )
    stamp = network_stamp(net)
    return Trace(
        tuple(found),
        y[0].detach().cpu().float().numpy(),
        Health.of(y),
        {
            **stamp,
            "trained": stamp["trained"] if trained is None else trained,
            "image": image_sha256(x),
            "size": list(size),
            "dtype": str(x.dtype).removeprefix("torch."),
            "device": str(x.device),
            "torch": torch.__version__,
        },
    )


def _is_part(name: str, of: str) -> bool:
    return name.startswith(f"{of}.")


def _places(net: nn.Module) -> dict[str, Stage | None]:
    """Where to look: the stages that the network publishes, or its modules without children."""
    published = getattr(net, "stages", None)
    if published:
        return {stage.name: stage for stage in published}
    leaves = [name for name, module in net.named_modules() if name and not any(True for _ in module.children())]
    return dict.fromkeys(leaves)


@contextmanager
def _watched(
    net: nn.Module,
    places: dict[str, Stage | None],
    size: tuple[int, int],
    states: bool,
    note: Callable[[StageTrace], None],
) -> Iterator[None]:
    """While the block runs, what each place returns is measured and noted; hooks are gone afterwards."""
    calls: dict[str, int] = {}
    with ExitStack() as stack:
        for name, stage in places.items():
            module = net.get_submodule(name)

            def look(
                module: nn.Module, inputs: Any, output: Any, name: str = name, stage: Stage | None = stage
            ) -> None:
                if not isinstance(output, Tensor) or output.ndim != 4:
                    return
                calls[name] = calls.get(name, 0) + 1
                known = stage or Stage(name, output.shape[1], max(1, round(size[0] / output.shape[-2])))
                scan = None
                if stage is not None and isinstance(module, SS2D | Mamba2):
                    scan = _scans(module, inputs[0], stage, states)
                key = name if calls[name] == 1 else f"{name}#{calls[name]}"
                note(_measured(key, output, known, size, scan))

            stack.callback(module.register_forward_hook(look).remove)
        yield


def _measured(name: str, output: Image, stage: Stage, size: tuple[int, int], scan: ScanHealth | None) -> StageTrace:
    """The numbers and the map of one output."""
    finite = torch.isfinite(output)
    not_finite = int((~finite).sum())
    values = torch.where(finite, output, 0) if not_finite else output
    energy = values.double().square().mean(dim=1, keepdim=True).sqrt()
    usual = float(energy.median())
    energy = torch.where(finite.all(dim=1, keepdim=True), energy, torch.inf) if not_finite else energy
    upright = stage.frame.inverse(energy)[0, 0]
    cells = cells_of(upright, stage.stride, size)
    sound = np.where(np.isfinite(upright.cpu().numpy()), upright.cpu().numpy(), -1)
    row, column = np.unravel_index(int(sound.argmax()), sound.shape)
    middle = (stage.stride - 1) // 2
    return StageTrace(
        name=name,
        stride=stage.stride,
        map=np.where(np.isfinite(cells), cells, np.nan),
        peak=max(0.0, float(sound.max())),
        where=(
            min(int(row) * stage.stride + middle, size[0] - 1),
            min(int(column) * stage.stride + middle, size[1] - 1),
        ),
        usual=usual,
        largest=float(values.abs().max()),
        not_finite=not_finite,
        seam=_seam(values, stage),
        scan=scan,
    )


def cells_of(energy: Float[Tensor, "_ _"], stride: int, size: tuple[int, int]) -> Float[np.ndarray, "_ _"]:
    """The largest value in each cell of `CELL` image px of an image of `size`, of a map whose pixels are `stride` image
    px wide; cells that lie inside one pixel have its value. What lies beyond the image is padding and left out."""
    h, w = (ceil(side / CELL) for side in size)
    inside = energy[: ceil(size[0] / stride), : ceil(size[1] / stride)]
    if stride >= CELL:
        fine = inside.repeat_interleave(stride // CELL, 0).repeat_interleave(stride // CELL, 1)
    else:
        edge = CELL // stride
        missing = [-side % edge for side in inside.shape]
        padded = F.pad(inside, (0, missing[1], 0, missing[0]), value=-torch.inf)
        fine = F.max_pool2d(padded[None], edge)[0]
    return fine[:h, :w].cpu().numpy()


def _seam(values: Image, stage: Stage) -> float | None:
    """How visible the borders of the windows are, in the frame that they are laid in."""
    h, w = values.shape[-2:]
    if stage.window is None or max(h, w) <= stage.window:
        return None
    return seam(values, *(borders(side, stage.window) for side in (h, w)))


def borders(length: int, edge: int) -> list[int]:
    """The pixels of a line before which a window of `edge` begins, or behind which one ends, inside the line."""
    edge = min(edge, length)
    origins = window_origins(length, edge)
    return sorted({at for origin in origins for at in (origin, origin + edge)} - {0, length})


def _scans(module: SS2D | Mamba2, x: Image, stage: Stage, states: bool) -> ScanHealth:
    """The health of a mixer's scans on its input, over all windows and directions; states at their largest."""
    site = Site(stage.name, module, None, x, stage.stride, IDENTITY, stage.window)
    wipes, holds, norms = [], [], []
    for window in site.windows():
        for _, scan in site.branch(window).scans:
            wipes.append(float(wiping(scan).mean()))
            holds.append(float(holding(scan).mean()))
            if states:
                norms.append(float(state_norm(scan).max()))
    return ScanHealth(float(np.mean(wipes)), float(np.mean(holds)), max(norms) if norms else None)


def table(found: Trace) -> list[dict[str, Any]]:
    """One row of plain numbers per stage, for a file; `None` where something does not apply or is infinite."""
    rows = []
    for stage in found.stages:
        scan = stage.scan
        rows.append(
            {
                "stage": stage.name,
                "stride": stage.stride,
                "peak": stage.peak,
                "usual": stage.usual,
                "excess": _finite(stage.excess),
                "row": stage.where[0],
                "column": stage.where[1],
                "largest": stage.largest,
                "not_finite": stage.not_finite,
                "seam": _finite(stage.seam),
                "wipes": scan and scan.wipes,
                "holds": scan and scan.holds,
                "state": scan and scan.state,
            }
        )
    return rows


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None
