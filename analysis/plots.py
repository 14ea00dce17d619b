"""Drawing functions: they put arrays into an axes and return it; they compute nothing and save nothing.

Sizes of text and lines come from the style in use (`analysis/paper.mplstyle`), apart from marks inside a
picture.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.patches import Circle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, PercentFormatter

from analysis.field_statistics import Number, RadialProfile

Field = Float[np.ndarray, "h w"]
PAPER_POWER = 0.25  # what published pictures raise a field to (MambaIR; VMamba takes 0.2)
SIGNED_POWER = 0.5
DASHES = ("-", (0, (4, 1.2)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (6, 2)), (0, (3, 1, 1, 1, 1, 1)))


def draw_erf(
    ax: Axes,
    field_map: Field,
    *,
    decades: Number = 4,
    style: str = "honest",
    radii: Mapping[float, Number] | None = None,
    untrained: bool = False,
) -> Axes:
    """Show a receptive field relative to its maximum, axes in px from the query.

    "honest" is log10 of it, down to `decades` (20 dB each), in a perceptually uniform map; whatever is
    smaller looks like 0. "paper" is its power 0.25 in the yellow-to-green half of RdYlGn, to stand beside
    published pictures: that lifts the faint parts. `radii`, share -> px, draws a circle around each share
    of the mass. `untrained` writes so into the picture.
    """
    relative = np.abs(_relative(field_map))
    if style == "honest":
        _show(ax, np.log10(np.maximum(relative, 10.0**-decades)), -decades, 0, mpl.colormaps["magma"])
        return _annotate(ax, radii or {}, untrained, colour="white", outline="black")
    if style == "paper":
        _show(ax, relative**PAPER_POWER, 0, 1, _upper_half("RdYlGn"))
        return _annotate(ax, radii or {}, untrained, colour="black", outline="white")
    raise ValueError(f'no style "{style}" of a receptive field; try "honest", "paper" or draw_signed_erf')


def draw_signed_erf(
    ax: Axes, field_map: Field, *, radii: Mapping[float, Number] | None = None, untrained: bool = False
) -> Axes:
    """Show a field with its signs, red above 0 and blue below: the root of its size relative to the
    largest."""
    relative = _relative(field_map)
    _show(ax, np.sign(relative) * np.abs(relative) ** SIGNED_POWER, -1, 1, mpl.colormaps["RdBu_r"])
    return _annotate(ax, radii or {}, untrained, colour="black", outline="white")


def draw_colorbar(panels: Axes | Iterable[Axes], *, style: str = "honest", unit: str = "") -> Axes:
    """The scale of one panel or of several alike, to the right of them all; returns the axes of the scale.

    `style` is that of the panels, "signed" for `draw_signed_erf`; `unit="dB"` labels "honest" with 20
    log10. One scale serves panels of different fields because each is relative to its own maximum, as the
    label says.
    """
    axes = [panels] if isinstance(panels, Axes) else list(panels)
    image = axes[0].images[0]
    bar = axes[0].figure.colorbar(image, ax=axes, pad=0.01, fraction=0.04, aspect=16)
    low, _ = image.get_clim()
    if style == "honest":
        levels = np.arange(0, low - 1e-9, -1)
        names = [_plain(20 * level) if unit == "dB" else _power_of_ten(level) for level in levels]
    elif style == "paper":
        shown = np.array([0, 0.001, 0.01, 0.1, 0.3, 1])
        levels, names = shown**PAPER_POWER, [_plain(value) for value in shown]
    elif style == "signed":
        shown = np.array([-1, -0.5, -0.1, 0, 0.1, 0.5, 1])
        levels, names = np.sign(shown) * np.abs(shown) ** SIGNED_POWER, [_plain(value) for value in shown]
    else:
        raise ValueError(f'no style "{style}"; try "honest", "paper" or "signed"')
    bar.set_ticks(list(levels), labels=names)
    bar.set_label("sensitivity / max [dB]" if unit == "dB" else "sensitivity / max")
    bar.outline.set_linewidth(mpl.rcParams["axes.linewidth"])
    return bar.ax


def draw_radial_profile(
    ax: Axes, profiles: Mapping[str, RadialProfile], *, shares: Sequence[Number] = (0.5, 0.9)
) -> Axes:
    """Draw how much of the mass lies within each distance, a named curve per field; a thin line at each
    share."""
    for index, (name, profile) in enumerate(profiles.items()):
        dash = DASHES[index % len(DASHES)]
        ax.plot(profile.radius, profile.share, drawstyle="steps-post", linestyle=dash, label=name)
    for share in shares:
        ax.axhline(share, color="0.7", linewidth=0.5, zorder=0)
    ax.margins(x=0)
    ax.set(ylim=(0, 1.02), xlabel="distance from the query [px]", ylabel="share of sensitivity within")
    ax.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(loc="lower right")
    return ax


def _relative(field_map: Field) -> Field:
    peak = np.abs(field_map).max()
    if not np.isfinite(peak) or peak == 0:
        raise ValueError(f"a field is drawn relative to its largest absolute value, which is {peak} here")
    return field_map / peak


def _show(ax: Axes, level: Field, low: Number, high: Number, cmap: Colormap) -> None:
    h, w = level.shape
    top, left = -(h // 2) - 0.5, -(w // 2) - 0.5
    extent = (left, left + w, top + h, top)
    ax.imshow(level, vmin=low, vmax=high, cmap=cmap, extent=extent, interpolation="nearest")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 4, 5, 10], integer=True))
    ax.set(xlabel="x [px]", ylabel="y [px]")


def _annotate(ax: Axes, radii: Mapping[float, Number], untrained: bool, *, colour: str, outline: str) -> Axes:
    for index, (share, radius) in enumerate(sorted(radii.items())):
        top = index % 2 == 1  # neighbours bear their names on opposite sides, where they cannot meet
        _circle(ax, f"{100 * share:g} %", radius, top, colour=colour, outline=outline)
    return draw_untrained_badge(ax) if untrained else ax


def draw_untrained_badge(ax: Axes, *, top: bool = False, size: Number = 6) -> Axes:
    """Say inside the picture, at its bottom or its top, that the weights are untrained; `size` in points."""
    box = {"boxstyle": "round,pad=0.25", "facecolor": "black", "edgecolor": "white", "linewidth": 0.4}
    where: dict[str, Any] = {"transform": ax.transAxes, "ha": "center", "va": "top" if top else "bottom"}
    ax.text(0.5, 0.96 if top else 0.04, "untrained weights", fontsize=size, color="white", bbox=box, **where)
    return ax


def _circle(ax: Axes, name: str, radius: Number, top: bool, *, colour: str, outline: str) -> None:
    """A circle around the query with its name at the top or the bottom; the limits of the axes stay as they are."""
    halo = [withStroke(linewidth=1.2, foreground=outline)]
    limits: dict[str, Any] = {"xlim": ax.get_xlim(), "ylim": ax.get_ylim()}
    ax.add_patch(Circle((0, 0), radius, fill=False, edgecolor=colour, linewidth=0.6, path_effects=halo))
    ax.set(**limits)
    reach = min(abs(bound) for pair in limits.values() for bound in pair)
    if radius > reach:
        return
    inside = radius > (0.75 if top else 0.45) * reach  # so that no name leaves the picture or meets the badge below
    below = inside == top
    place: dict[str, Any] = {"xytext": (0, -1.5 if below else 1), "va": "top" if below else "bottom", "ha": "center"}
    text: dict[str, Any] = {
        "fontsize": 5.5,
        "color": colour,
        "path_effects": halo,
        "textcoords": "offset points",
    }
    ax.annotate(name, (0, -radius if top else radius), **place, **text)


def _upper_half(name: str) -> ListedColormap:
    """The colours of a diverging map from its middle up: 0 at its centre, nothing negative."""
    return ListedColormap(mpl.colormaps[name](np.linspace(0.5, 1, 256)), name=f"{name}, upper half")


def _power_of_ten(level: Number) -> str:
    return "1" if abs(level) < 1e-9 else f"$10^{{{level:.0f}}}$"


def _plain(value: Number) -> str:
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")
