"""One row of a whole mixer: its windows stitched, its directions merged, in the frame it works in.

Levels A0-A4 are those of the scan (`analysis.scan_rows`). A5 runs from the values before the convolution to the gated
channels, the activation and the gate held fixed (Zimerman et al. 2025). A6 and A7 run from the block's map to the
branch's output and weigh the output's channels by their own direction at the query: A6 with gates, norms, activations
and delta, B, C held fixed, A7 with nothing held fixed, the row of the Jacobian. Columns are `analysis.module_columns`.
"""

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from analysis import scan_rows
from analysis.own_scans import BareScans
from analysis.scan_branches import Branch, Cell, Mask, step_of, take_apart
from analysis.scan_rows import SCAN_LEVELS, Scan, first, from_alpha, scan_output, without_skip
from evssm.geometry import D4, IDENTITY
from evssm.layers import RMSNorm2d
from evssm.windows import window_origins

LEVELS = {
    **SCAN_LEVELS,
    "A5": "the scan with skip, gate, activation and convolution",
    "A6": "the block's branch, gates, norms and selection held fixed",
    "A7": "the whole Jacobian of the block's branch",
}
"""What a map at each level contains."""

Window = tuple[slice, slice]


@dataclass(frozen=True, eq=False)
class Site:
    """One call of one mixer on one image: what entered its block's branch, as stored, and where that lies."""

    name: str
    mixer: nn.Module
    norm: RMSNorm2d | None
    """What the map passes on its way into the mixer; `None` where `x` is the mixer's own input."""
    x: Float[Tensor, "1 c h w"]
    stride: int = 1
    frame: D4 = IDENTITY
    window: int | None = None
    bare: BareScans | None = None
    """The scans themselves, where nothing is known of the module around them; of `x` then only the size counts."""
    held: dict[tuple[int, ...], Branch | BareScans] | None = None
    """What is scanned in each window, once it was asked for; `None` where it is made anew for every question."""

    def windows(self) -> list[Window]:
        """The windows that the mixer sees the map in."""
        h, w = self.x.shape[-2:]
        if self.window is None or max(h, w) <= self.window:
            return [(slice(0, h), slice(0, w))]
        rows, columns = ([slice(o, o + min(self.window, n)) for o in window_origins(n, self.window)] for n in (h, w))
        return [(r, c) for r in rows for c in columns]

    def cover(self) -> Float[Tensor, "h w"]:
        """How many windows hold each pixel."""
        count = self.x.new_zeros(self.x.shape[-2:])
        for window in self.windows():
            count[window] += 1
        return count

    @property
    def nbytes(self) -> int:
        """Memory of what is held."""
        if self.bare is None:
            return self.x.nbytes
        return sum(tensor.nbytes for _, scan in self.bare.scans for tensor in scan)

    def around(self, cell: Cell) -> list[Window]:
        """The windows that hold a pixel."""
        return [w for w in self.windows() if all(s.start <= at < s.stop for at, s in zip(cell, w, strict=True))]

    def holding(self) -> "Site":
        """The same call for many questions: windows are taken apart once, which takes many times the map's memory."""
        return replace(self, held={})

    def scanned(self, window: Window) -> Branch | BareScans:
        """What is scanned in one window."""
        if self.held is None:
            return self._taken_apart(window)
        place = tuple(edge for side in window for edge in (side.start, side.stop))
        if place not in self.held:
            self.held[place] = self._taken_apart(window)
            self.held[place].hold()
        return self.held[place]

    def branch(self, window: Window) -> Branch:
        """The mixer taken apart for one window."""
        branch = self.scanned(window)
        assert not isinstance(branch, BareScans), f"of {self.name} only the scan is known"
        return branch

    def _taken_apart(self, window: Window) -> Branch | BareScans:
        if self.bare is not None:
            return self.bare
        return take_apart(self.mixer, self.entering(self.x[(..., *window)]))

    def entering(self, x: Float[Tensor, "1 c h w"]) -> Float[Tensor, "1 c h w"]:
        """The mixer's input for a window of the block's map."""
        return x if self.norm is None else self.norm(x)


class Line(NamedTuple):
    """A row or column in the mixer's frame; `rebuilt` and `output` are what `ScanRow.check` compares."""

    per_channel: Float[Tensor, "k h w"]
    support: Bool[Tensor, "h w"]
    rebuilt: Float[Tensor, " _"]
    output: Float[Tensor, " _"]
    emphasis: Float[Tensor, " d"] | None = None
    """How strongly each channel enters the branch's output at the query."""


class Part(NamedTuple):
    """A line in one window: the directions' sum, the mask that each has, and the two sides of the check."""

    line: Float[Tensor, "k h w"]
    seen: list[Mask]
    rebuilt: Float[Tensor, " _"]
    output: Float[Tensor, " _"]
    skip: Float[Tensor, " d"]
    """D u at the query, which the check leaves out of both sides: it is large, and would hide errors."""


def module_row(site: Site, cell: Cell, level: str, *, residual: bool = True) -> Line:
    """What the pixel `cell` of the mixer's map gathers; overlapping windows count as their average.

    `residual` concerns levels A6 and A7: whether the block's map, to which the branch is added, counts too.
    Raises `ValueError` for an unknown level.
    """
    check_level(site, level)
    if level in ("A6", "A7"):
        return _branch_row(site, cell, level, residual)
    parts, emphasis, share = [], None, 1 / len(site.around(cell))
    total, support = None, torch.zeros(site.x.shape[-2:], dtype=torch.bool)
    for window in site.around(cell):
        place = within(cell, window)
        branch = site.scanned(window)
        if level == "A5":
            assert not isinstance(branch, BareScans)  # `check_level` has seen to it
            part = _gated(branch, place)
        else:
            part = _gathered(branch, place, level)
        support[window] |= branch.reach(part.seen, level)
        emphasis = branch.emphasis(place, level) if emphasis is None else emphasis
        total = into(total, part.line * share, window, site)
        parts.append(part)
    assert total is not None
    rebuilt, output = (torch.stack(sides).mean(dim=0) for sides in _sides(parts))
    return Line(total, support, rebuilt, output, emphasis)


def check_level(site: Site, level: str) -> None:
    """`ValueError` for a level that is unknown, or not known of the site."""
    if level not in LEVELS:
        raise ValueError(f'no level "{level}" of a row or column; choose from {", ".join(LEVELS)}')
    if site.bare is not None and level not in SCAN_LEVELS:
        raise ValueError(f"of {site.name} only the scan is known; choose from {', '.join(SCAN_LEVELS)}, not {level}")


def _gathered(branch: Branch | BareScans, cell: Cell, level: str) -> Part:
    """A row of the sum of all directions, over the scan's input; checked at level A3, whatever is shown."""
    parts, (h, w), answers = [], branch.size, branch.answers
    for number, (turn, scan) in enumerate(branch.scans):
        t = step_of(turn, cell, h, w)
        alpha = scan_rows.row(scan, t)
        shown = from_alpha(scan_rows.row, scan, t, level, alpha)
        past = without_skip(first(scan, t + 1))
        rebuilt = _applied(alpha[:, : t + 1], past)
        output = scan_output(past)[:, -1] if answers is None else answers[number][:, t]
        skip = scan.D * scan.u[:, t]
        parts.append(Part(as_map(shown, turn, h, w), [_seen(turn, cell, h, w)], rebuilt, output, skip))
        del scan, past  # before the next direction's are made
    return _merged(parts)


def _gated(branch: Branch, cell: Cell) -> Part:
    """Level A5: a row over the values before the convolution."""
    scan, gate = _gathered(branch, cell, "A4"), branch.gate(cell)
    line, bias = branch.before(gate[:, None, None] * scan.line)
    rebuilt = (line * branch.values).sum(dim=(1, 2)) + bias
    return Part(line, scan.seen, rebuilt, gate * (scan.output + scan.skip), gate * scan.skip)


def _branch_row(site: Site, cell: Cell, level: str, residual: bool) -> Line:
    """Levels A6 and A7: a row over the block's map, in the direction of the branch's own output at the query."""
    residual = residual and site.norm is not None
    around = site.around(cell)
    answer = _answer(site, site.x, around, cell, residual)
    strength = answer.norm()
    if not strength > 0:
        raise ValueError(
            f"{site.name} answers zero at this query, so its output has no direction; use level A5 or less"
        )
    direction = answer / strength
    total, support = torch.zeros_like(site.x[0]), torch.zeros_like(site.x[0, 0], dtype=torch.bool)
    constant = total.new_zeros(())
    for window in around:
        place = within(cell, window)
        if level == "A6":
            line, reach, added = _frozen(site, window, place, direction / len(around))
            constant = constant + added
        else:
            line, reach = _jacobian(site, window, place, direction / len(around))
        total[(..., *window)] += line
        support[window] |= reach
    if residual:
        total[(..., *cell)] += direction
    if level == "A6":
        rebuilt, output = (total * site.x[0]).sum() + constant, strength
    else:
        rebuilt, output = _both_ways(site, around, cell, residual, direction, total)
    return Line(total, support, rebuilt[None], output[None])


def _frozen(site: Site, window: Window, cell: Cell, direction: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One window's row with everything held fixed but the values; its support; what all biases add."""
    branch, x = site.branch(window), site.x[(0, ..., *window)]
    scan = _gathered(branch, cell, "A4")
    weights, constant = branch.after(scan.output + scan.skip, branch.gate(cell), direction)
    line, biases = branch.before(weights[:, None, None] * scan.line)
    line = branch.to_input(line)
    constant = constant + biases.sum()
    if site.norm is not None:
        constant = constant + einsum(line, site.norm.bias, "c h w, c ->")
        line = line * site.norm.weight[:, None, None] * torch.rsqrt(x.square().mean(dim=0) + site.norm.eps)
    return line, branch.reach(scan.seen, "A6"), constant


def _jacobian(site: Site, window: Window, cell: Cell, direction: Tensor) -> tuple[Tensor, Tensor]:
    """One window's row of the Jacobian, and its support."""
    with torch.enable_grad():
        x = site.x[(..., *window)].clone().requires_grad_()
        answer = site.mixer(site.entering(x))[(0, ..., *cell)]
        (line,) = torch.autograd.grad(answer, x, direction)
    branch = site.branch(window)
    return line[0], branch.reach([_seen(turn, cell, *x.shape[-2:]) for turn in branch.directions], "A7")


def _answer(site: Site, x: Tensor, around: list[Window], cell: Cell, residual: bool) -> Float[Tensor, " c"]:
    """The output of the block's branch at `cell`."""
    parts = [site.mixer(site.entering(x[(..., *window)]))[(0, ..., *within(cell, window))] for window in around]
    mean = torch.stack(parts).mean(dim=0)
    return mean + x[(0, ..., *cell)] if residual else mean


def _both_ways(site: Site, around: list[Window], cell: Cell, residual: bool, direction: Tensor, line: Tensor) -> Any:
    """The change along a random direction of input, by the row and by central differences in float64."""
    exact = in_float64(site)
    generator = torch.Generator(device="cpu").manual_seed(0)
    way = torch.randn(exact.x.shape, generator=generator, dtype=torch.float64).to(exact.x)
    step = 1e-5 * exact.x.square().mean().sqrt()
    ahead, behind = (_answer(exact, exact.x + sign * step * way, around, cell, residual) for sign in (1, -1))
    slope = direction.double() @ (ahead - behind) / (2 * step)
    return (line.double() * way[0]).sum(), slope


def in_float64(site: Site) -> Site:
    """The same call in double precision, for differences."""
    norm = None if site.norm is None else deepcopy(site.norm).double()
    return replace(site, mixer=deepcopy(site.mixer).double(), norm=norm, x=site.x.double(), held=None)


def _merged(parts: list[Part]) -> Part:
    """The sum over directions, with every direction's mask."""
    first_line, *lines = (part.line for part in parts)
    for line in lines:  # one after the other: stacked, four directions would need twice the memory
        first_line = first_line + line
    rebuilt, output = (torch.stack(sides).sum(dim=0) for sides in _sides(parts))
    skip = torch.stack([part.skip for part in parts]).sum(dim=0)
    return Part(first_line, [part.seen[0] for part in parts], rebuilt, output, skip)


def _sides(parts: list[Part]) -> tuple[list[Tensor], list[Tensor]]:
    """The two sides of all parts' checks."""
    return [part.rebuilt for part in parts], [part.output for part in parts]


def into(total: Tensor | None, line: Float[Tensor, "k h w"], window: Window, site: Site) -> Float[Tensor, "k H W"]:
    """A window's line added to those of the whole map."""
    if total is None:
        total = line.new_zeros(len(line), *site.x.shape[-2:])
    total[(..., *window)] += line
    return total


def _applied(alpha: Float[Tensor, "k l"], scan: Scan) -> Float[Tensor, " d"]:
    """alpha u, where d / k neighbouring channels share a row."""
    u = rearrange(scan.u, "(k p) l -> k p l", k=len(alpha))
    return einsum(alpha, u, "k l, k p l -> k p").flatten()


def as_map(line: Float[Tensor, "k l"], turn: D4, h: int, w: int) -> Float[Tensor, "k h w"]:
    """A line over one direction's steps as a map in the mixer's frame."""
    return turn.inverse(line.unflatten(1, turn.size(h, w)))


def _seen(turn: D4, cell: Cell, h: int, w: int) -> Mask:
    """The pixels from which one direction's scan gathers at `cell`."""
    steps = torch.arange(h * w, device="cpu").reshape(turn.size(h, w))
    return turn.inverse(steps <= step_of(turn, cell, h, w))


def within(cell: Cell, window: Window) -> Cell:
    """The pixel, counted from the window's corner."""
    return cell[0] - window[0].start, cell[1] - window[1].start
