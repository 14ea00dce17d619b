"""The paper's ablations as data: which networks each table compares, what it published, and what it claims."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from analysis.tasks import DEFOCUS, DUAL_PIXEL, MOTION, ONE_SCENE, TWO_VIEWS


@dataclass(frozen=True)
class Method:
    """One row of a table: its name there, the network of the compact family that stands for it, and how it is run.

    `network` is empty where the project trains none; the published numbers then stand alone. `variant` is the row's
    name in `published_tables.csv`, empty where nothing was published. `ensemble` is a name in
    `evssm.ensemble.ENSEMBLES`; `paper` the arguments of `evssm train` for the full network.
    """

    label: str
    network: str
    variant: str = ""
    ensemble: str = "none"
    paper: str = ""


@dataclass(frozen=True)
class Ablation:
    """A table of the supplement. `claims` are pairs of labels: the first is published as the better one.

    `task` is the key in `the_tasks` of the test, `beside` what of the paper it stands beside where that is no table.
    """

    name: str
    table: str
    title: str
    methods: tuple[Method, ...]
    claims: tuple[tuple[str, str], ...] = ()
    note: str = ""
    task: str = MOTION
    beside: str = ""

    @property
    def source(self) -> str:
        """What of the paper it stands beside."""
        return self.beside or f"supplement, Table {self.table}"

    def method(self, label: str) -> Method:
        return next(method for method in self.methods if method.label == label)


_TURNS = (
    Method("w/o F&T", "evssm-no-geot-compact", paper="evssm-no-geot"),
    Method("w/o T", "evssm-no-transpose-compact", paper="evssm-no-transpose"),
    Method("w/o F", "evssm-no-flip-compact", paper="evssm-no-flip"),
    Method("four-direction", "evssm-four-direction-compact", paper="evssm-four-direction"),
    Method("EVSSM", "evssm-compact", paper="evssm"),
)

_ABSENT = (
    "Networks without numbers of their own do not come with the package: `evssm/trained/family.md` says which were "
    "trained and what they reached."
)

ABLATIONS: dict[str, Ablation] = {
    found.name: found
    for found in (
        Ablation(
            "transforms",
            "",
            "Geometric transforms (supplement, Fig. 5)",
            _TURNS,
            (("EVSSM", "w/o T"), ("EVSSM", "w/o F"), ("w/o T", "w/o F&T"), ("w/o F", "w/o F&T")),
            "The supplement compares receptive fields, not scores; its PSNR without turns is in Table 12.",
            beside="supplement, Fig. 5, taken as PSNR",
        ),
        Ablation(
            "mamba2",
            "9",
            "Geometric transforms on Mamba-2 blocks (supplement, Table 9)",
            (
                Method("EVSSM2 w/o GeoT", "evssm2-no-geot-compact", "w/o GeoT", paper="evssm2-no-geot"),
                Method("EVSSM2 w/ GeoT", "evssm2-compact", "w/ GeoT", paper="evssm2"),
            ),
            (("EVSSM2 w/ GeoT", "EVSSM2 w/o GeoT"),),
        ),
        Ablation(
            "loss",
            "10",
            "Frequency loss (supplement, Table 10)",
            (
                Method("L1", "evssm-compact-l1", "L1 loss", paper="evssm --loss l1"),
                Method("L1 and frequency", "evssm-compact", "L1&Frequency loss", paper="evssm"),
            ),
            (("L1 and frequency", "L1"),),
        ),
        Ablation(
            "kernel",
            "11",
            "Kernel of the convolution on the SSM parameters (supplement, Table 11)",
            (
                *(Method(f"{k} x {k}", f"evssm-k{k}-compact", f"{k}x{k}", paper=f"evssm-k{k}") for k in (3, 5, 7, 9)),
                Method("1-D, 7 (released code)", "evssm-compact", paper="evssm"),
            ),
            (("5 x 5", "3 x 3"), ("7 x 7", "5 x 5")),
            "The published PSNR of 3 x 3 and 5 x 5 (33.08, 33.12 dB) do not fit their SSIM; they may be misprints.",
        ),
        Ablation(
            "ensemble",
            "12",
            "Self-ensemble (supplement, Table 12)",
            (
                Method("w/o GeoT", "evssm-no-geot-compact", "EVSSM w/o GeoT, single", paper="evssm-no-geot"),
                Method(
                    "w/o GeoT, ensemble",
                    "evssm-no-geot-compact",
                    "EVSSM w/o GeoT, self-ensemble",
                    "x4-frames",
                    "evssm-no-geot",
                ),
                Method("EVSSM", "evssm-compact", "EVSSM, single", paper="evssm"),
                Method("EVSSM, ensemble", "evssm-compact", "EVSSM, self-ensemble", "x4-frames", "evssm"),
            ),
            (("w/o GeoT, ensemble", "w/o GeoT"), ("EVSSM, ensemble", "EVSSM"), ("EVSSM", "w/o GeoT")),
            "Which four positions the paper averages is not published; here they are the four in which EVSSM's own "
            "blocks see a map. The paper's text says +0.24 dB for EVSSM where its table gives +0.22.",
        ),
        Ablation(
            "defocus",
            "13",
            "Defocus deblurring (supplement, Table 13, which is on DPDD)",
            (
                *(Method(name, "", name) for name in ("EBDB", "DMENet", "JNB")),
                *(Method(name, f"{name.lower()}-compact", name) for name in ("DPDNet", "KPAC", "IFAN")),
                Method("Restormer", "restormer-compact-defocus", "Restormer"),
                Method("EVSSM", "evssm-compact-defocus", "EVSSM", paper="evssm"),
            ),
            (("EVSSM", "Restormer"), ("Restormer", "IFAN"), ("IFAN", "KPAC"), ("KPAC", "DPDNet")),
            f"{ONE_SCENE} EBDB, DMENet and JNB are published numbers only; what stands for them here is deconvolution "
            "by a map of blur (`evssm.deconvolution`). All networks are trained on the restored image alone, IFAN too, "
            f"whose authors also train its disparity and a network that blurs again. {_ABSENT}",
            DEFOCUS,
        ),
        Ablation(
            "dual-pixel",
            "",
            "Defocus deblurring from two dual-pixel views",
            tuple(
                Method(name, f"{name.lower()}-dual-pixel-compact") for name in ("DPDNet", "KPAC", "IFAN", "Restormer")
            ),
            note=f"{TWO_VIEWS} The supplement has single photographs only, so that nothing is published beside these; "
            f"they are not to be read in one column with those of one view. {_ABSENT}",
            task=DUAL_PIXEL,
            beside="no table of the supplement, which has single photographs only",
        ),
    )
}
"""Name -> ablation, in the supplement's order of tables."""


@dataclass(frozen=True)
class Published:
    """What a table prints for one row; `None` where it has no such column, and SSIM with as many digits as there."""

    psnr: float | None
    ssim: str
    flops: float | None
    runtime_ms: float | None


@cache
def _published() -> Mapping[tuple[str, str], Published]:
    """(table, name of the row) -> its numbers, from the supplement's tables as they were printed."""
    text = resources.files("analysis").joinpath("published_tables.csv").read_text(encoding="utf-8")
    found = {}
    for row in csv.DictReader(text.splitlines()):
        psnr, flops, runtime = (float(row[key]) if row[key] else None for key in ("psnr_db", "flops_g", "runtime_ms"))
        name = {"12": f"{row['method']}, {row['variant']}", "13": row["method"]}.get(row["table"], row["variant"])
        found[row["table"], name] = Published(psnr, row["ssim"], flops, runtime)
    return found


def published(ablation: Ablation, method: Method) -> Published | None:
    """The published numbers of a row, `None` where there are none. `LookupError` for a row that is not in the table."""
    if not method.variant:
        return None
    try:
        return _published()[ablation.table, method.variant]
    except KeyError:
        raise LookupError(f"Table {ablation.table} has no row {method.variant!r}") from None
