"""The style that figures are drawn under: what it leaves behind."""

import matplotlib as mpl
import pytest

from analysis.panels import paper_style


@pytest.fixture(autouse=True)
def _as_before():
    with mpl.rc_context():
        yield


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("within", [False, True])
def test_an_interactive_mode_that_begins_under_the_style_outlives_it_and_nothing_else_does(before, within):
    mpl.interactive(before)
    kept = dict(mpl.rcParams)
    with paper_style():
        mpl.interactive(within)  # as a notebook's first figure does
        assert mpl.rcParams["pdf.fonttype"] == 42 != kept["pdf.fonttype"]
    assert mpl.is_interactive() is within
    assert dict(mpl.rcParams) == {**kept, "interactive": within}


def failing_picture():
    mpl.interactive(True)
    raise ZeroDivisionError


def test_also_where_drawing_fails():
    mpl.interactive(False)
    kept = mpl.rcParams["font.size"]
    with pytest.raises(ZeroDivisionError), paper_style():
        failing_picture()
    assert mpl.is_interactive()
    assert mpl.rcParams["font.size"] == kept
