"""The layouts in which published data sets come, as a table."""

from __future__ import annotations

from typing import NamedTuple


class Layout(NamedTuple):
    """Where the images of a pair lie, seen from the folder that both have in common (its base).

    `within` is the name that the base must have, `beside` another folder that it must hold; with `named` it must be
    called after the data set or hold another of its splits; `shared` says that the sharp folder serves several splits.
    """

    name: str
    sharp: str
    single: str = ""
    left: str = ""
    right: str = ""
    dataset: str | None = None
    split: str | None = None
    variant: str = "blur"
    within: str = ""
    beside: str = ""
    named: bool = False
    shared: bool = False
    ending: str = ""


_DPDD, _HIDE, _GOPRO = "DPDD, original", "HIDE, original", "GoPro, original"
_ENDINGS = ("", "_crops", ".lmdb", "_crops.lmdb")
_PLAIN = (
    *(("input", "target"), ("blur", "sharp"), ("blurred", "sharp"), ("blurry", "sharp"), ("blur", "gt")),
    *(("input", "gt"), ("lq", "gt"), ("source", "target")),
)

SPECIAL = (
    *(
        Layout(_DPDD, f"{s}_{view}/target", f"{s}_c/source", f"{s}_l/source", f"{s}_r/source", "DPDD", s)
        for s in ("train", "val", "test")
        for view in "cl"
    ),
    *(
        Layout(_DPDD, "target", single, left, right, "DPDD", s, within=f"{s}_{view}")
        for s in ("train", "val", "test")
        for view, single, left, right in (("c", "source", "", ""), ("l", "", "source", ""), ("r", "", "", "source"))
    ),
    *(
        Layout("DPDD, Restormer", f"target{e}", f"inputC{e}", f"inputL{e}", f"inputR{e}", "DPDD", ending=e)
        for e in _ENDINGS
    ),
    Layout(_HIDE, "GT", "test/test-close-ups", dataset="HIDE", split="test", shared=True),
    Layout(_HIDE, "GT", "test/test-long-shot", dataset="HIDE", split="test", shared=True),
    Layout(_HIDE, "GT", "test", dataset="HIDE", split="test", shared=True, named=True),
    Layout(_HIDE, "GT", "train", dataset="HIDE", split="train", shared=True, named=True),
    Layout(_GOPRO, "sharp", "blur_gamma", dataset="GoPro", variant="blur_gamma"),
    Layout(_GOPRO, "sharp", "blur", dataset="GoPro", beside="blur_gamma"),
)
"""Layouts that only one data set has; of rows that want the same folder, the first gets it."""

PLAIN = tuple(
    Layout(f"{blurred}{e}, {sharp}{e}", f"{sharp}{e}", f"{blurred}{e}", ending=e)
    for e in _ENDINGS
    for blurred, sharp in _PLAIN
)
"""Two folders side by side; the names of the folders above them say which data set and split they are."""

EXAMPLES = (
    (_GOPRO, "GOPRO_Large/{train,test}/SEQUENCE/{blur,blur_gamma,sharp}/*.png"),
    (_HIDE, "HIDE_dataset/{train,test/test-close-ups,test/test-long-shot,GT}/*.png"),
    ("RealBlur, original", "RealBlur-{J,R}.../SCENE/{blur,gt}/*.png, with RealBlur_{J,R}_{train,test}_list.txt above"),
    (_DPDD, "{train,val,test}_{c,l,r}/{source,target}/*.png, 16 bit"),
    ("Restormer, MPRNet", "{train,test}/{GoPro,HIDE,RealBlur_J,RealBlur_R}/{input,target}/*.png, also _crops"),
    ("DPDD, Restormer", "{train,val,test}/DPDD/{inputC,inputL,inputR,target}/*.png, 16 bit, also _crops"),
    ("BasicSR, NAFNet, EVSSM", "{GoPro,...}/{train,test}/{blur_crops,sharp_crops}.lmdb or {input,target}.lmdb"),
    ("plain folders", f"[DATASET/][train|test/][SCENE/] with {' or '.join('{' + ','.join(p) + '}' for p in _PLAIN)}"),
)
"""What `evssm data list` shows."""
