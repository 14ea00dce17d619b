"""The explorer for readers without a kernel: one HTML file with the answers for a grid of pixels, and nothing else."""

import json
import re
from base64 import b64encode
from dataclasses import replace
from html import escape
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from analysis.explorer import Explorer, Panel
from analysis.field import ERF
from analysis.jobs import Progress
from analysis.module_rows import LEVELS
from analysis.row_map import REDUCTIONS, ScanRow
from evssm.images import levels
from evssm.provenance import written_whole
from evssm.sidecar import versions

DECADES = 4
GREY = (0x33, 0x33, 0x33)
"""The colour of what a scan cannot reach; the last of the palette."""

TEMPLATE = Path(__file__).with_name("explorer_page.html")


def write_page(
    explorer: Explorer, path: str | Path, grid: tuple[int, int] = (5, 7), progress: Progress | None = None
) -> Path:
    """The path, once it holds a page with the receptive field and every module's map for `grid` pixels of the panel.

    The same panel gives the same bytes. Maps are in 255 steps over four decades. `progress` is called with (done,
    total) pixels. Raises what the explorer raises.
    """
    panel = explorer.panel
    h, w = explorer.image(panel).shape[-2:]
    queries = grid_pixels(h, w, *grid)
    networks = _tiles(explorer, panel, queries, progress)
    shown = [{**network, "tiles": list(network["tiles"].values())} for network in networks.values()]
    told = {
        "title": f"Explorer: {', '.join(panel.networks)} on {panel.image}",
        "lead": _lead(panel, h, w),
        "footer": _footer(explorer, panel, f"{explorer.command(path, panel, '--static')} --grid {grid[0]}x{grid[1]}"),
        "image_name": panel.image,
    }
    pixels = levels(explorer.image(panel), 8).permute(1, 2, 0).numpy().astype(np.uint8)
    filled = {
        **{key: escape(value) for key, value in told.items()},
        "image": _encoded(Image.fromarray(pixels)),
        "scale": _palette_picture(np.arange(255, dtype=np.uint8)[None]),
        "grey": f"rgb{GREY}",
        "h": str(h),
        "w": str(w),
        "data": _inside_a_script({"size": [h, w], "queries": queries, "networks": shown}),
    }
    text = re.sub(r"%%(\w+)%%", lambda found: filled[found[1]], TEMPLATE.read_text(encoding="utf-8"))
    with written_whole(path) as part:
        part.write_text(text, encoding="utf-8")
    return Path(path)


def grid_pixels(h: int, w: int, rows: int, columns: int) -> list[tuple[int, int]]:
    """The pixels in the middles of equal cells of an image, row by row; `ValueError` for more cells than pixels."""
    if not (1 <= rows <= h and 1 <= columns <= w):
        raise ValueError(f"a grid of {rows} x {columns} pixels does not fit an image of {h} x {w} px")
    return [
        ((2 * r + 1) * h // (2 * rows), (2 * c + 1) * w // (2 * columns)) for r in range(rows) for c in range(columns)
    ]


def _tiles(
    explorer: Explorer, panel: Panel, queries: list[tuple[int, int]], progress: Progress | None
) -> dict[str, dict[str, Any]]:
    """What the page shows of each network: its tiles, the receptive field first, with the maps of all pixels."""
    try:
        rows = explorer.rows_of(queries, panel)
    except LookupError:  # none of them scans; they have fields all the same
        rows = {}
    networks: dict[str, dict[str, Any]] = {name: {"name": name, "tiles": {}} for name in panel.networks}
    for done, query in enumerate(queries, start=1):
        fields = explorer.answer(replace(panel, view="field", query=query))
        for name, network in networks.items():
            network["untrained"] = fields[name].untrained
            _add(network, "receptive field", *_field(fields[name], query))
        if progress is not None:
            progress(done, len(queries))
    for name, of_stages in rows.items():
        for row in chain.from_iterable(of_stages.values()):
            _add(networks[name], _title(row), *_row(row))
    return networks


def _add(network: dict[str, Any], title: str, picture: str, note: str) -> None:
    """One pixel's map to the tile of this title."""
    tile = network["tiles"].setdefault(title, {"name": title, "maps": [], "notes": []})
    tile["maps"].append(picture)
    tile["notes"].append(note)


def _title(row: ScanRow) -> str:
    return f"{row.stage.removesuffix('.mixer')} (1/{row.stride})"


def _row(row: ScanRow) -> tuple[str, str]:
    """A row's picture and what stands below it."""
    inside = row.inside
    return steps_picture(row.map[inside], row.support[inside]), f"max {np.abs(row.map).max():.1e}"


def _field(field: ERF, query: tuple[int, int]) -> tuple[str, str]:
    """The part of a field of the frame "whole" that lies on the image."""
    h, w = (side // 2 for side in field.map.shape)
    part = field.map[h - query[0] : 2 * h - query[0], w - query[1] : 2 * w - query[1]]
    return steps_picture(
        part, np.ones(part.shape, dtype=bool)
    ), f"R\N{SUBSCRIPT NINE}\N{SUBSCRIPT ZERO} {field.radius(0.9):.0f} px"


def steps_picture(field: Float[np.ndarray, "h w"], support: Bool[np.ndarray, "h w"]) -> str:
    """A PNG in base64 of a map relative to its largest absolute value: `DECADES` in 255 steps, grey off the support."""
    peak = float(np.abs(field).max()) or 1.0
    level = np.log10(np.maximum(np.abs(field) / peak, 10.0**-DECADES)) / DECADES + 1
    return _palette_picture(np.where(support, np.rint(254 * level), 255).astype(np.uint8))


def _palette_picture(steps: UInt8[np.ndarray, "h w"]) -> str:
    picture = Image.fromarray(steps, mode="P")
    colours = (mpl.colormaps["magma"](np.linspace(0, 1, 255))[:, :3] * 255).round().astype(np.uint8)
    picture.putpalette([*colours.flatten().tolist(), *GREY])
    return _encoded(picture)


def _encoded(picture: Image.Image) -> str:
    data = BytesIO()
    picture.save(data, format="PNG", optimize=True)
    return b64encode(data.getvalue()).decode("ascii")


def _inside_a_script(value: Any) -> str:
    """JSON that cannot end the script it stands in."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _lead(panel: Panel, h: int, w: int) -> str:
    return (
        f"For the starred pixel of this image ({panel.image}, {h} x {w} px): the effective receptive field of the "
        "output there, and in every module the row of the implicit attention, as the image lies. Level "
        f"{panel.level}: {LEVELS[panel.level]}; {REDUCTIONS['abs']}; log scale, {DECADES} decades."
    )


def _footer(explorer: Explorer, panel: Panel, command: str) -> str:
    """Where the networks come from, and the command that writes the page again."""
    fields = explorer.answer(replace(panel, view="field"))
    told = []
    for name, field in fields.items():
        made, origin = field.provenance, field.provenance["provenance"]
        kind = "untrained weights" if field.untrained else "weights"
        trained = f", {origin['steps']} training steps on {origin['data']}" if origin.get("steps") else ""
        told.append(f"{name}: {kind} {made['weights'][:12]}{trained}.")
    made_with = ", ".join(f"{package} {number}" for package, number in versions().items())
    return f"{' '.join(told)} Made by {command} ({made_with})."
