"""The state of a run on disk: one file, whole or not there, from which the run goes on bit for bit."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evssm.provenance import existing_file, written_whole


@dataclass(frozen=True)
class Checkpoint:
    """All that the next step depends on: `run` says of which run, `step` counts the steps that are done."""

    run: dict[str, Any]
    step: int
    net: dict[str, Tensor]
    mean: dict[str, Tensor]
    optimiser: dict[str, Any]

    def save(self, path: Path) -> None:
        """Writes the file, or leaves the one that was there."""
        content = io.BytesIO()  # torch reports a full disk in words of its own
        torch.save({**vars(self), "run": json.dumps(self.run, sort_keys=True)}, content)
        with written_whole(path) as part:
            part.write_bytes(content.getbuffer())

    @classmethod
    def load(cls, path: Path, run: dict[str, Any]) -> Checkpoint:
        """The state in the file, once it is sure to belong to `run`.

        Raises `ValueError`, in one line, for a damaged file and for one of another run, naming what differs.
        """
        path = existing_file(path, "a checkpoint")
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            found = cls(**{**content, "run": dict(json.loads(content["run"]))})
        except Exception as error:  # a damaged zip, pickle or text each has errors of its own
            reason = str(error).split("\n")[0]
            raise ValueError(f"{path} is no checkpoint of a training run ({reason}); delete it to start anew") from None
        here = json.loads(json.dumps(run))
        different = [
            f"{key}: {found.run.get(key)!r} there, {here.get(key)!r} now"
            for key in sorted({*found.run, *here})
            if found.run.get(key) != here.get(key)
        ]
        if different:
            raise ValueError(
                f"{path} belongs to another run ({'; '.join(different)}); name another folder or the same run"
            )
        return found
