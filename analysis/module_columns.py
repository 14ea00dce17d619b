"""One column of a whole mixer: where one pixel goes, through all outputs, at the levels of `analysis.module_rows`.

Whatever the level, the entry of pixel j's column at pixel i is that of i's row at j. So levels A6 and A7 have a value
per channel of the block's map at j, and weigh the branch's output at i by its own direction there; where a pixel
answers zero, they are zero. A7 is the Jacobian in forward mode, all channels of j at once (`analysis.scan_tangents`).
"""

from collections.abc import Iterable

import torch
from einops import einsum, repeat
from jaxtyping import Float
from torch import Tensor

from analysis import scan_rows
from analysis.module_rows import Line, Site, as_map, check_level, in_float64, into, within
from analysis.own_scans import BareScans
from analysis.scan_branches import Branch, Cell, Mask, Values, step_of
from analysis.scan_rows import from_alpha, scan_output, with_skip
from analysis.scan_tangents import tangent
from evssm.geometry import D4

Sides = tuple[Tensor, Tensor]
"""What a column says of the query's own value, and what the module makes of that value alone."""


def module_column(site: Site, cell: Cell, level: str, *, residual: bool = True) -> Line:
    """Where the pixel `cell` of the mixer's map goes; overlapping windows count as their average.

    `residual` is that of `module_row`. The check (`ScanRow.check`) sends the query's own value alone through the scan
    (A0-A4), or through the branch with gates, norms, activations and selection held (A5, A6); for A7 it compares the
    answers' change with central differences in float64, the query being moved along a random direction.

    Raises `ValueError` for an unknown level and, at A6 and A7, where no pixel of the map has an answer.
    """
    check_level(site, level)
    if level in ("A6", "A7"):
        return _branch_column(site, cell, level, residual)
    total, support = None, torch.zeros(site.x.shape[-2:], dtype=torch.bool)
    sides: list[Sides] = []
    for window in site.around(cell):
        place = within(cell, window)
        if level == "A5":
            line, reached, both = _gated(site.branch(window), place)
        else:
            line, reached, both = _sent(site.scanned(window), place, level)
        support[window] |= reached
        total = into(total, line, window, site)
        sides.append(both)
    assert total is not None
    return Line(total / site.cover(), support, *_compared(sides))


def _sent(branch: Branch | BareScans, cell: Cell, level: str) -> tuple[Values, Mask, Sides]:
    """A column of the sum of all directions, over the scan's output; checked at level A3, whatever is shown.

    D u is left out of both sides of the check: it is large, and would hide errors.
    """
    (h, w), line = branch.size, None
    support = torch.zeros(h, w, dtype=torch.bool)
    rebuilt: Tensor | float = 0.0
    output: Tensor | float = 0.0
    for turn, scan in branch.scans:
        s = step_of(turn, cell, h, w)
        alpha = scan_rows.column(scan, s)
        shown = from_alpha(scan_rows.column, scan, s, level, alpha)
        alone, skipless = torch.zeros_like(scan.u), scan._replace(D=torch.zeros_like(scan.D))
        alone[:, s] = scan.u[:, s]
        shared = repeat(alpha, "k l -> (k p) l", p=len(alone) // len(alpha))
        rebuilt = rebuilt + as_map(shared * scan.u[:, s, None], turn, h, w)
        output = output + as_map(scan_output(skipless, alone), turn, h, w)
        support |= _from(turn, [s], h, w)
        here = as_map(shown, turn, h, w)
        line = here if line is None else line + here
    assert isinstance(line, Tensor)
    assert isinstance(rebuilt, Tensor)
    assert isinstance(output, Tensor)
    return line, support, (rebuilt, output)


def _gated(branch: Branch, cell: Cell) -> tuple[Values, Mask, Sides]:
    """Level A5: a column from the values before the convolution to the gated channels."""
    fan, gate = branch.fan(cell, "A5"), branch.gate()
    line = gate * _through(branch, fan)
    value = branch.values[(..., *cell)]
    output = gate * _answered(branch, _fanned(branch, fan, value))
    return line, _reached(branch, fan), (line * value[:, None, None], output)


def _branch_column(site: Site, cell: Cell, level: str, residual: bool) -> Line:
    """Levels A6 and A7: a column from the block's map, in the direction of the branch's own output at every pixel."""
    residual = residual and site.norm is not None
    direction, x = _directions(site, residual), site.x[(0, ..., *cell)]
    share = direction / site.cover()
    total, support = torch.zeros_like(site.x[0]), torch.zeros_like(site.x[0, 0], dtype=torch.bool)
    made = torch.zeros_like(site.x[0, 0])
    for window in site.around(cell):
        branch, place = site.branch(window), within(cell, window)
        if level == "A6":
            line, reached, answer = _frozen(branch, place, share[(..., *window)], _past_norm(site, x))
            made[window] += answer
        else:
            line, reached = _jacobian(branch, place, share[(..., *window)])
        total[(..., *window)] += line
        support[window] |= reached
    total = _before_norm(site, x, level, total)
    if residual:
        total[(..., *cell)] += direction[(..., *cell)]
        made[cell] += direction[(..., *cell)] @ x
    if level == "A6":
        return Line(total, support, *_compared([(einsum(total, x, "c h w, c -> h w"), made)]))
    return Line(total, support, *_compared([_both_ways(site, cell, residual, direction, total)]))


def _frozen(
    branch: Branch, cell: Cell, direction: Float[Tensor, "c h w"], value: Float[Tensor, " c"]
) -> tuple[Float[Tensor, "c h w"], Mask, Float[Tensor, "h w"]]:
    """Level A6 in one window: the column over the mixer's input; its support; for the check, what the mixer, everything
    held but the values, makes of one pixel's input alone along `direction`."""
    fan, y = branch.fan(cell, "A6"), _output(branch)
    weights, _ = branch.after(y, branch.gate(), direction)
    part = _answered(branch, _fanned(branch, fan, branch.projected(value)))
    answer = (branch.added(part, y) * direction).sum(dim=0)
    return branch.to_input(weights * _through(branch, fan)), _reached(branch, fan), answer


def _jacobian(branch: Branch, cell: Cell, direction: Float[Tensor, "c h w"]) -> tuple[Float[Tensor, "c h w"], Mask]:
    """Level A7 in one window: the column over the mixer's input, and its support."""
    h, w = branch.size
    weights, by_gate = branch.heard(_output(branch), direction)
    line, support = torch.zeros_like(direction), torch.zeros(h, w, dtype=torch.bool)
    for turn, scan, nudges in branch.nudged(cell):
        line += as_map(tangent(scan, nudges, turn(weights).flatten(1)), turn, h, w)
        support |= _from(turn, nudges, h, w)
    line[(..., *cell)] += by_gate[(..., *cell)]
    return line, support


def _directions(site: Site, residual: bool) -> Float[Tensor, "c h w"]:
    """The direction of the branch's output at every pixel, zero where it answers zero."""
    answers = _answers(site, site.x, residual)
    strength = answers.norm(dim=0)
    if not strength.any():
        raise ValueError(f"{site.name} answers zero everywhere, so its output has no direction; use level A5 or less")
    return answers / torch.where(strength > 0, strength, 1)


def _answers(site: Site, x: Float[Tensor, "1 c h w"], residual: bool) -> Float[Tensor, "c h w"]:
    """The branch's output everywhere."""
    total = torch.zeros_like(x[0])
    for window in site.windows():
        total[(..., *window)] += site.mixer(site.entering(x[(..., *window)]))[0]
    mean = total / site.cover()
    return mean + x[0] if residual else mean


def _past_norm(site: Site, x: Float[Tensor, " c"]) -> Float[Tensor, " c"]:
    """The query's value x on its way into the mixer, without what the norm's bias adds."""
    return x if site.norm is None else x * site.norm.weight * torch.rsqrt(x.square().mean() + site.norm.eps)


def _before_norm(
    site: Site, x: Float[Tensor, " c"], level: str, line: Float[Tensor, "c h w"]
) -> Float[Tensor, "c h w"]:
    """A column over the mixer's input as one over the block's map, x at the query; at level "A7" the norm's scale moves
    with it."""
    if site.norm is None:
        return line
    scale = torch.rsqrt(x.square().mean() + site.norm.eps)
    line = line * (site.norm.weight * scale)[:, None, None]
    if level == "A6":
        return line
    along = einsum(line, x, "c h w, c -> h w")
    return line - x[:, None, None] * along * scale.square() / len(x)


def _both_ways(site: Site, cell: Cell, residual: bool, direction: Tensor, line: Tensor) -> Sides:
    """Every answer's change as the query moves along a random direction, by the column and by central differences."""
    exact = in_float64(site)
    generator = torch.Generator(device="cpu").manual_seed(0)
    way = torch.randn(len(line), generator=generator, dtype=torch.float64).to(exact.x)
    size = 1e-5 * exact.x.square().mean().sqrt()
    step = torch.zeros_like(exact.x)
    step[(0, ..., *cell)] = size * way
    change = _answers(exact, exact.x + step, residual) - _answers(exact, exact.x - step, residual)
    return einsum(line.double(), way, "c h w, c -> h w"), (direction.double() * change).sum(dim=0) / (2 * size)


def _through(branch: Branch, fan: dict[Cell, Float[Tensor, " d"]]) -> Values:
    """The scans' answer, skip D included, to what `fan` puts in, channel by channel: columns of level "A4", added."""
    total, (h, w) = torch.zeros_like(branch.values), branch.size
    for turn, scan in branch.scans:
        line = torch.zeros_like(scan.u)
        for cell, factor in fan.items():
            s = step_of(turn, cell, h, w)
            line += factor[:, None] * with_skip(scan, scan_rows.column(scan, s), s)
        total += as_map(line, turn, h, w)
    return total


def _fanned(branch: Branch, fan: dict[Cell, Float[Tensor, " d"]], value: Float[Tensor, " d"]) -> Values:
    """What enters the scans, as a map, where one pixel's values alone are not zero."""
    alone = torch.zeros_like(branch.values)
    for cell, factor in fan.items():
        alone[(..., *cell)] = factor * value
    return alone


def _answered(branch: Branch, u: Values) -> Values:
    """What the scans, their selection held, make of u in place of their own values."""
    total = torch.zeros_like(u)
    for turn, scan in branch.scans:
        total += as_map(scan_output(scan, turn(u).flatten(1)), turn, *branch.size)
    return total


def _output(branch: Branch) -> Values:
    """y, the sum of all directions."""
    total = torch.zeros_like(branch.values)
    for turn, scan in branch.scans:
        total += as_map(scan_output(scan), turn, *branch.size)
    return total


def _reached(branch: Branch, fan: Iterable[Cell]) -> Mask:
    """The pixels that some direction's scan comes to with or after one of `fan`."""
    h, w = branch.size
    masks = [_from(turn, [step_of(turn, cell, h, w) for cell in fan], h, w) for turn in branch.directions]
    return torch.stack(masks).any(dim=0)


def _from(turn: D4, steps: Iterable[int], h: int, w: int) -> Mask:
    """The pixels from the first of these steps of one direction on."""
    return turn.inverse(torch.arange(h * w).reshape(turn.size(h, w)) >= min(steps))


def _compared(sides: list[Sides]) -> Sides:
    """Both sides in the plane that they span, two numbers each, lengths and angle kept: whole maps fill memory."""
    rebuilt, output = (torch.cat([each.flatten() for each in side]).double() for side in zip(*sides, strict=True))
    length = output.norm()
    axis = output / length if length > 0 else output
    along = rebuilt @ axis
    return torch.stack([along, (rebuilt - along * axis).norm()]), torch.stack([length, torch.zeros_like(length)])
