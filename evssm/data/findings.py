"""What a check of a data set says: findings, one line each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ERROR, WARNING = "error", "warning"


@dataclass(frozen=True)
class Finding:
    """One defect. An error makes results wrong or not comparable; a warning is for a person to judge."""

    severity: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.where}: {self.what}"


def some(names: Iterable[str], most: int = 3) -> str:
    """The first names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def many(names: Sequence[object], what: str) -> str:
    """`1 image`, `2 images`."""
    return f"{len(names)} {what}{'s' if len(names) != 1 else ''}"
