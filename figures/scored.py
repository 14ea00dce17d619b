"""What the ablations and the findings share: the test set and scores per image, which are kept in `scores/`."""

from pathlib import Path

from card import HERE

from analysis.tasks import Task, the_tasks
from evssm.cli.ablate import EXTENTS
from evssm.ledger import read_ledger
from evssm.provenance import sha256_of
from evssm.weights import bundled, load

SCORES = HERE / "scores"
"""A table per network, seed and way of use. They take minutes and so come with the project; `evaluate` reads rows of
the same network, weights, images and protocol instead of scoring those images again."""


def the_tests() -> dict[str, Task]:
    """What the family is scored on, by task."""
    return the_tasks(EXTENTS)


def forget_replaced() -> list[Path]:
    """Removes tables of weights that do not come with the package any more; what was removed."""
    digests = {name: sha256_of(load(path).state_dict()) for name, path in bundled().items()}
    SCORES.mkdir(exist_ok=True)
    replaced = [path for path in kept_scores() if digests.get(path.stem.partition("_")[0]) != _weights(path)]
    for path in replaced:
        path.unlink()
    return replaced


def kept_scores() -> list[Path]:
    return sorted(SCORES.glob("*.csv"))


def _weights(table: Path) -> str:
    header, _ = read_ledger(table)
    return str(header["weights"])
