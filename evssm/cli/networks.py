"""`evssm list`."""

from evssm.cli.app import app


@app.command("list", epilog="Example: evssm list")
def list_networks() -> None:
    """The networks, the trained ones that come with the package, and the scan backends of this machine."""
    from rich.console import Console
    from rich.table import Table

    from evssm.models import MODELS
    from evssm.scan import scan_backends
    from evssm.weights import bundled

    console = Console()
    table = Table("network", "what it is", "source", box=None, header_style="bold")
    for name, model in MODELS.items():
        table.add_row(name, model.summary, model.source)
    console.print(table)
    console.print("bundled trained networks:", ", ".join(bundled()) or "none yet")
    console.print("scan backends:", "; ".join(f"{name}: {state}" for name, state in scan_backends().items()))
