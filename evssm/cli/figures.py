"""`evssm figures`."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from evssm.cli.app import app

MAKER = Path(__file__).parents[2] / "figures" / "make.py"
"""Where the scripts lie in a checkout; an installed wheel has none, for the pictures they make are the project's."""


@app.command(epilog="Example: evssm figures | evssm figures erf_transforms | evssm figures report")
def figures(
    names: Annotated[
        list[str] | None, typer.Argument(help="Some of them, made again in any case; all that changed by default.")
    ] = None,
) -> None:
    """Makes the project's own figures, tables and findings, and the page that shows them, figures/report.html.

    What has not changed since it was made is left alone. The same as `make figures`, in this Python.
    """
    if not MAKER.is_file():
        raise ValueError(
            f"the figures' scripts lie in the project's checkout, and {MAKER} is not there; clone the project and "
            "install it with: python -m pip install --editable ."
        )
    ended = subprocess.run([sys.executable, str(MAKER), *(names or ())], check=False)
    if ended.returncode:
        raise typer.Exit(ended.returncode)
