"""Pairs read from folders and databases as they were published, each labelled with what it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from evssm.data.listing import Item
from evssm.data.pairs import Pair
from evssm.data.pictures import Picture, header
from evssm.data.published import PUBLISHED, SPLITS
from evssm.data.sets import DUAL, MODES, SINGLE, Label, PairSet, find_sets

VARIANTS = ("blur", "blur_gamma")


class PairedFolder:
    """A sequence of `Pair`s in order of their names, read when they are asked for.

    `label` says what a table must say of them. `blurred` is `3 h w`, or `6 h w` (left, right) of dual-pixel views.
    Reading raises `ValueError` or `FileNotFoundError` for what is no whole image, for images of a pair that differ in
    size, and where DPDD is not of 16 bits.
    """

    def __init__(self, label: Label, items: Sequence[Item]) -> None:
        self.label = label
        self._items = tuple(items)

    @property
    def names(self) -> list[str]:
        """SCENE/NAME where the data set has scenes, NAME otherwise; without suffix."""
        return [item.name for item in self._items]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, i: int, /) -> Pair:
        item = self._items[i]
        views = [item.pictures[role] for role in MODES[str(self.label.mode)]]
        read = [self._read(picture) for picture in (*views, item.pictures["sharp"])]
        sizes = {tuple(x.shape[-2:]) for x in read}
        if len(sizes) > 1:
            found = " and ".join(f"{h} x {w}" for h, w in sorted(sizes))
            raise ValueError(f"the images of {item.name} in {self.label} measure {found}; run `evssm data verify`")
        return Pair(torch.cat(read[:-1]), read[-1], item.name)

    def _read(self, picture: Picture) -> torch.Tensor:
        published = PUBLISHED.get(self.label.dataset or "")
        if published and published.bits == 16 and header(picture).bits != 16:
            raise ValueError(
                f"{picture} has {header(picture).bits} bits where {self.label.dataset} has 16; copy the original, or "
                f"rename its folder to something other than {self.label.dataset} to use it as it is"
            )
        return picture.read()


def paired_folder(
    root: str | Path,
    *,
    dataset: str | None = None,
    split: str | None = None,
    variant: str = "blur",
    mode: str = SINGLE,
    crops: bool | None = None,
    storage: str | None = None,
) -> PairedFolder:
    """The one set of pairs under `root` (see `evssm data list` for layouts) that is of this data set and split.

    `variant` chooses GoPro's `blur` or `blur_gamma`, `mode` DPDD's single view or its two dual-pixel views; `crops`
    and `storage` ("files" or "lmdb") choose where both are there, as `dataset` and `split` do.

    Raises `ValueError` or `FileNotFoundError`, in one line, where none or several sets are meant, where the views are
    missing, and where images lack a partner.
    """
    if variant not in VARIANTS or mode not in MODES:
        raise ValueError(f"variants are {', '.join(VARIANTS)} and modes {', '.join(MODES)}; not {variant!r}, {mode!r}")
    if storage not in (None, "files", "lmdb"):
        raise ValueError(f"storage is 'files' or 'lmdb', not {storage!r}")
    sets, trouble = find_sets(root, dataset=dataset)
    wanted = {"split": SPLITS.get(split.lower(), split) if split else None, "crops": crops, "storage": storage}
    asked = {"variant": variant} | {key: value for key, value in wanted.items() if value is not None}
    fitting = [one for one in sets if all(getattr(one.label, key) == value for key, value in asked.items())]
    if len(fitting) != 1:
        raise ValueError(_which(root, fitting or sets, asked, bool(fitting)))
    (one,) = fitting
    _demand_views(one, mode)
    for stray in trouble:
        if stray.folder.is_relative_to(one.label.folder) and any(group.scene for group in one.groups):
            raise ValueError(f"{one.label}: {stray}; complete or remove it")
    return PairedFolder(replace(one.label, mode=mode), _whole(one))


def _which(root: str | Path, sets: list[PairSet], asked: Mapping[str, object], several: bool) -> str:
    there = "; ".join(f"{one.label} in {one.label.folder}" for one in sets[:6])
    there += f"; and {len(sets) - 6} more" if len(sets) > 6 else ""
    said = ", ".join(f"{key}={value}" for key, value in asked.items())
    if several:
        return f"{root} holds {len(sets)} sets with {said}: {there}. Name a folder further down, or say more"
    return f"{root} holds nothing with {said}, but {there}; ask for one of these"


def _demand_views(one: PairSet, mode: str) -> None:
    lacking = [role for role in MODES[mode] if role not in one.roles]
    if not lacking:
        return
    there = ", ".join(sorted(one.roles))
    if mode == DUAL:
        raise ValueError(
            f"{one.label} has no {' and no '.join(lacking)} view, only {there}: dual-pixel reading needs both "
            "(inputL and inputR, or *_l and *_r); use mode='single', or add the folders"
        )
    raise ValueError(f"{one.label} has only the views {there}; use mode='dual-pixel', or add inputC or *_c")


def _whole(one: PairSet) -> list[Item]:
    """The items, once every image is sure to have its partner."""
    found = one.listing
    wrong = found.unreadable[:1]
    wrong += [f"{len(names)} {role} images without a partner" for role, names in found.unpaired.items() if names]
    wrong += [f"{len(found.missing)} images of the published list missing"] if found.missing else []
    doubled = [name for held in found.held.values() for name in held.doubled]
    wrong += [f"names that occur twice, such as {doubled[0]}"] if doubled else []
    if wrong or not found.items:
        raise ValueError(
            f"{one.label} in {one.label.folder}: {'; '.join(wrong) or 'no images'}; `evssm data verify` says which"
        )
    return found.items
