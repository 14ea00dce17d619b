"""What trained networks are scored on: pairs that none was trained on, blurred in the way that it was trained for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from evssm.data.embedded import embedded_test
from evssm.data.motorcycle import COLUMNS, FOCUSES, TEST_CIRCLES, DefocusTest
from evssm.data.pairs import Pairs
from evssm.inference import channels_taken

MOTION, DEFOCUS, DUAL_PIXEL = "motion", "defocus", "dual-pixel"

ONE_SCENE = (
    "All defocus here is of one scene, whose true depth is known: columns {} to {} of the photograph train, {} to {} "
    "test, and neither shows the strip between, which is wider than the largest blur. Both parts have the same light "
    "and camera, objects of their own, and disparities of 7 to 59 and of 13 to 60 px. So a gain says that a network "
    "learned to undo these lenses where it had not looked; it says nothing of other scenes, and the intervals draw "
    "settings of the lens, not scenes. Networks trained on motion saw the whole photograph and are not scored here."
).format(*COLUMNS["train"], *COLUMNS["test"])
"""What a table of defocus scores must say."""

TWO_VIEWS = (
    f"{ONE_SCENE} Gains are over the mean of the two views' stored values, the picture that these networks start from. "
    "The photograph of the whole lens is their mean light, which scores lower: gains of one view and of two do not "
    "compare."
)
"""The same for two views."""


@dataclass(frozen=True, eq=False)
class Task:
    """Held-out pairs, what a table calls them, and what their scores can and cannot show."""

    title: str
    pairs: Pairs
    data: str
    scope: str = ""


def the_tasks(extents: Sequence[float]) -> dict[str, Task]:
    """Camera motion of such extents, in pixels; defocus in a single photograph; and in two dual-pixel views."""
    text, focuses, circles = (", ".join(f"{number:g}" for number in row) for row in (extents, FOCUSES, TEST_CIRCLES))
    scene = (
        f"the motorcycle's right part, focused on disparities of {focuses} px with blur circles of at most {circles} px"
    )
    return {
        MOTION: Task(
            "Motion",
            embedded_test(extents=extents, straight=True),
            f"straight camera motion of {text} px on held-out photographs",
        ),
        DEFOCUS: Task("Defocus, one photograph", DefocusTest(), scene, ONE_SCENE),
        DUAL_PIXEL: Task(
            "Defocus, two dual-pixel views", DefocusTest(dual_pixel=True), f"{scene}, two views", TWO_VIEWS
        ),
    }


def task_of(net: Callable[..., Any]) -> str:
    """The key in `the_tasks` that a network was trained for: by the views that it takes, and by what is said of its
    training data."""
    if channels_taken(net) == 6:
        return DUAL_PIXEL
    made = getattr(net, "provenance", None)
    return DEFOCUS if "defocus" in ((made and made.data) or "") else MOTION
