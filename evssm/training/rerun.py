"""Whether a training can be repeated: its first steps again, held against the log that lies beside its weights."""

import json
from math import nan
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from evssm.provenance import Provenance
from evssm.training.journal import read_journal
from evssm.training.loop import LOG, Report, train
from evssm.training.recipes import TrainConfig
from evssm.training.run import TrainingData, defocus_data, embedded_data, takes_two_views
from evssm.weights import load


class Rerun(NamedTuple):
    """A training's first steps against their log: the first step that differs, in words, `None` where every digit is
    met; and whether the first loss agrees to a relative 1e-5.

    On another processor, or with another number of threads, last digits may differ and training amplifies them: there
    the first loss is all that has to agree.
    """

    difference: str | None
    first_loss_agrees: bool


def rerun(file: Path, log: Path, steps: int, *, report: Report | None = None) -> Rerun:
    """Trains the network in `file` anew for so many steps, as it says itself, and holds that against its log.

    Raises as `repeated` does.
    """
    again = repeated(file, steps, report=report)
    kept = [row for row in read_journal(log) if int(row["step"]) <= steps]
    was, now = (float(rows[0]["loss"]) if rows else nan for rows in (kept, again))
    return Rerun(_difference(kept, again), abs(now - was) <= 1e-5 * abs(was))


def _difference(kept: list[dict[str, str]], again: list[dict[str, str]]) -> str | None:
    if len(again) != len(kept):
        return f"{len(kept)} steps are logged where {len(again)} are repeated"
    for was, now in zip(kept, again, strict=True):
        if was != now:
            key = next(key for key in was if was[key] != now[key])
            return f"step {was['step']}: {key} was {was[key]} and is {now[key]}"
    return None


def repeated(file: Path, steps: int, *, report: Report | None = None) -> list[dict[str, str]]:
    """The log of the first steps of the training that `file` came from, done again.

    Raises `ValueError` for weights that were not trained on this version's own data.
    """
    net: Any = load(file)
    made: Provenance | None = net.provenance
    data = None
    if made is not None and made.note and made.seed is not None:
        try:
            config = TrainConfig.from_dict(json.loads(made.note))
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{file} does not say how it was trained ({error}); only what `evssm train` wrote does"
            ) from None
        data = _data_of(made, config, made.seed)
    if made is None or made.seed is None or data is None:
        described = made.data if made else None
        raise ValueError(f"{file} was trained on {described}, which this version cannot repeat; take its commit's")
    with TemporaryDirectory() as folder:
        place = Path(folder)
        train(
            made.model,
            data.crops,
            [],
            config,
            place,
            seed=made.seed,
            data=data.description,
            stop_after=steps,
            report=report,
        )
        return read_journal(place / LOG)


def _data_of(made: Provenance, config: TrainConfig, seed: int) -> TrainingData | None:
    """The package's own data that are described as those that `made` names, if any are."""
    ours = (
        embedded_data(config, seed, validation=False),
        defocus_data(config, seed, dual_pixel=takes_two_views(made.model)),
    )
    return next((data for data in ours if data.description == made.data), None)
