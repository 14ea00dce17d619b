"""What a table of scores must say before anyone compares its numbers."""

import re
from collections.abc import Mapping
from typing import Any

from evssm.metrics import Protocol

_TASKS = {
    "defocus": r"dpdd|dd_dp|defocus|dual.?pixel|out.of.focus",
    "motion": r"go.?pro|hide(?![a-z])|real.?blur|motion|shake|embedded",
}


def task_of(text: str | None) -> str | None:
    """The kind of blur, "motion" or "defocus", that the name of a data set or of a file of weights speaks of.

    `None` where it speaks of neither or of both.
    """
    found = [task for task, words in _TASKS.items() if text and re.search(words, text, re.IGNORECASE)]
    return found[0] if len(found) == 1 else None


def task_of_weights(provenance: Mapping[str, Any]) -> str | None:
    """The kind of blur that weights were trained on, after their provenance: its `data`, or else the file's name."""
    return task_of(provenance.get("data")) or task_of(provenance.get("file"))


def cautions(stamp: Mapping[str, Any], data: str, protocol: Protocol) -> list[str]:
    """Why scores of a network (its `evssm.stamp.network_stamp`) on `data` are not what they seem; empty if they
    are."""
    found = []
    weights, images = task_of_weights(stamp["provenance"]), task_of(data)
    if stamp["trained"] is False:
        found.append("untrained weights")
    if weights and images and weights != images:
        found.append(f"{weights} weights on {images} data: no measure of the network")
    if re.search(r"real.?blur", data, re.IGNORECASE) and protocol.alignment == "none":
        found.append("not aligned: not comparable with published RealBlur scores")
    return found
