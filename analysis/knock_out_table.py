"""What a network loses without one of its parts, altogether and module by module: its field and its PSNR."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from analysis.borrow import borrowed
from analysis.erf import effective_receptive_field
from analysis.field import ERF
from analysis.inputs import check_fit, single_images
from analysis.knock_outs import PARTS, knocked_out, parts_of
from analysis.making import made_of
from analysis.sensitivity import chosen_output
from evssm.metrics import psnr

NONE = "none"
"""The name of the line in which nothing is knocked out."""


@dataclass(frozen=True)
class Effect:
    """One network without `part` in `stage` ("all" or one module); changes are from the network as it is.

    PSNR is the mean over images in dB, rounded to 8 bits, not-a-number where no sharp images are known. `output_change`
    is the root mean square of the outputs' difference, in [0, 1]. Of the field: radii in px, effective pixels, mass
    relative to that of the network as it is, and contrasts (up - down, left - right) beyond `BEYOND` px.
    """

    part: str
    stage: str
    modules: int
    psnr: float
    psnr_change: float
    output_change: float
    mass: float
    r50: float
    r90: float
    r90_change: float
    effective_pixels: float
    vertical: float
    horizontal: float


BEYOND = 8
"""Half-width in px of the local zone that contrasts leave out."""


@dataclass(frozen=True, eq=False)
class KnockOuts:
    """A line for the network as it is, then one for each part and module knocked out; and how they were made."""

    effects: tuple[Effect, ...]
    provenance: dict[str, Any]

    def rows(self) -> list[dict[str, Any]]:
        """A line of a table for each effect."""
        return [asdict(effect) for effect in self.effects]


def knock_out_effects(
    net: Any,
    images: Tensor | Sequence[Tensor],
    sharp: Tensor | Sequence[Tensor] | None = None,
    *,
    parts: Sequence[str] | None = None,
    each: bool = True,
    progress: Callable[[int, int], object] | None = None,
    **options: Any,
) -> KnockOuts:
    """The effect of knocking `parts` (all that `net` has) out, everywhere at once and with `each` in single modules.

    `images` are `b c h w` or a list of `c h w` of one size, `sharp` what they should become. `options` are those of
    `effective_receptive_field`. `progress` is called with (done, total) knock-outs. Which turns a module loses is said
    in `analysis.knock_outs`; modules that do not have a part are left out.

    Raises `ValueError` for an unknown part, one that the network does not have, and where it has none.
    """
    inputs = single_images(images)
    check_fit(net, inputs[0])
    targets = None if sharp is None else single_images(sharp)
    if targets is not None and (len(targets), targets[0].shape) != (len(inputs), inputs[0].shape):
        raise ValueError(f"{len(targets)} sharp images of {tuple(targets[0].shape)} do not belong to the blurred ones")
    parts = parts_of(net) if parts is None else list(parts)
    if not parts:
        raise ValueError(f"this {type(net).__name__} has none of {', '.join(PARTS)} to knock out")
    todo: list[tuple[str, str | None, int]] = []
    for part in parts:
        with knocked_out(net, part) as changed:
            names = list(changed)
        todo += [(part, None, len(names)), *((part, name, 1) for name in names if each and len(names) > 1)]
    field, outputs = _seen(net, inputs, options)
    effects = [_effect((NONE, "all", 0), field, outputs, field, outputs, targets)]
    for done, (part, stage, count) in enumerate(todo, start=1):
        with knocked_out(net, part, stage):
            found = _seen(net, inputs, options)
        effects.append(_effect((part, stage or "all", count), *found, field, outputs, targets))
        if progress is not None:
            progress(done, len(todo))
    return KnockOuts(tuple(effects), made_of(net, inputs, trained=options.get("trained"), parts=list(parts)))


def _seen(net: Any, inputs: Sequence[Tensor], options: dict[str, Any]) -> tuple[ERF, list[Tensor]]:
    """The field of the network as it is now, and what it makes of each image."""
    field = effective_receptive_field(net, inputs, **options)
    with borrowed(net), torch.no_grad():
        return field, [chosen_output(net(image.clone()), options.get("select")) for image in inputs]


def _effect(
    place: tuple[str, str, int],
    field: ERF,
    outputs: Sequence[Tensor],
    whole: ERF,
    before: Sequence[Tensor],
    targets: Sequence[Tensor] | None,
) -> Effect:
    lean, score, usual = field.asymmetry(BEYOND), _psnr(outputs, targets), _psnr(before, targets)
    change = torch.cat([(y - x).double().square().flatten() for y, x in zip(outputs, before, strict=True)]).mean()
    return Effect(
        *place,
        psnr=score,
        psnr_change=score - usual,
        output_change=float(change.sqrt()),
        mass=float(field.mass.mean() / whole.mass.mean()),
        r50=field.radius(0.5),
        r90=field.radius(0.9),
        r90_change=field.radius(0.9) - whole.radius(0.9),
        effective_pixels=field.effective_pixels(),
        vertical=lean.vertical,
        horizontal=lean.horizontal,
    )


def _psnr(outputs: Sequence[Tensor], targets: Sequence[Tensor] | None) -> float:
    if targets is None:
        return float("nan")
    return float(torch.cat([psnr(y, x) for y, x in zip(outputs, targets, strict=True)]).mean())
