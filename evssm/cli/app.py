"""The application that every command registers with."""

import typer

app = typer.Typer(
    help="Look inside EVSSM and its deblurring baselines.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _commands() -> None:
    """Keeps `evssm list` a subcommand however many there are."""
