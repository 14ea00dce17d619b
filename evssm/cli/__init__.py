"""The command line: parses, calls one function, prints where the results are. Heavy imports wait for the command."""

import os
import sys

import typer

# A command exists once its file is imported.
from evssm.cli import (  # noqa: F401
    ablate,
    activation,
    attribute,
    cost,
    data,
    deblur,
    erf,
    evaluate,
    explore,
    family,
    figures,
    layers,
    measure,
    networks,
    trace,
    train,
)
from evssm.cli.app import app


def main() -> None:
    """Runs the command line: exit status 0, or 2 with one line for what the caller got wrong."""
    from typer._click.exceptions import ClickException

    # Threads that wait by spinning starve each other on busy machines.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        status = app(standalone_mode=False)
    except ClickException as error:
        _refuse(error.format_message())
    except KeyboardInterrupt:
        typer.echo("evssm: interrupted; finished files are whole, and the same command goes on from them", err=True)
        sys.exit(130)
    except OSError as error:
        named = error.filename and error.strerror
        _refuse(
            f"{error.filename}: {error.strerror}; check the path, its permissions and the disk" if named else str(error)
        )
    except UnicodeEncodeError as error:
        _refuse(f"{error.object[:200]!a} is no text in UTF-8; rename the file, or set PYTHONUTF8=1 for all names")
    except (ValueError, LookupError) as error:
        _refuse(str(error))
    sys.exit(status or 0)


def _refuse(message: str) -> None:
    typer.echo(f"evssm: {' '.join(message.split())}", err=True)
    sys.exit(2)
