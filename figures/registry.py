"""The figures that there are, in the report's order: what each asks, where the paper shows it, who draws it."""

from dataclasses import dataclass

from analysis.ablations import ABLATIONS
from analysis.tasks import MOTION


@dataclass(frozen=True)
class Figure:
    """One figure: the stem of its files, its question, what of the paper it stands beside, and where it is explained.

    `script` is the file that makes it, by default of the same name; `notebook` the stem of one in `notebooks/`.
    """

    name: str
    title: str
    source: str
    notebook: str
    script: str = ""

    @property
    def maker(self) -> str:
        return self.script or self.name


FIGURES: tuple[Figure, ...] = (
    Figure("erf_networks", "How far does each network look?", "supplement, Fig. 4", "02_baselines"),
    Figure("erf_transforms", "What do the turns change?", "supplement, Fig. 5", "03_geometric_transforms"),
    *(
        Figure(name, question, "supplement, Fig. 4, extended", "12_other_systems", script="erf_systems")
        for name, question in (
            ("erf_older", "How far do SRN and DeblurGAN look?"),
            ("erf_defocus", "How far do the networks for defocus look?"),
            ("erf_dual_pixel", "How far do they look in two dual-pixel views?"),
        )
    ),
    Figure("activation", "What does one pixel gather in every scan?", "supplement, Fig. 6", "04_activation_maps"),
    *(
        Figure(
            f"ablation_{name}",
            ablation.title.partition(" (")[0],
            ablation.source,
            "05_ablations" if ablation.task == MOTION else "06_defocus",
            script="ablations",
        )
        for name, ablation in ABLATIONS.items()
    ),
)

SCRIPTS = (*dict.fromkeys(figure.maker for figure in FIGURES), "findings")
"""What `make.py` runs, in this order; the last writes no figure but `analysis/FINDINGS.md`."""
