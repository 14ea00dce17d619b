"""The explorer's page: a server on this machine alone, that asks for a key and gives out nothing but the page."""

import os
import secrets
import socket
import sys
import tempfile
import webbrowser
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer

LOOPBACK = "127.0.0.1"
NEEDED = ("ipywidgets", "ipympl")
SHOWN_BY = {True: "jupyterlab", False: "voila"}
EXTENSIONS = ["@jupyter-widgets/jupyterlab-manager", "@voila-dashboards/widgets-manager8", "jupyter-matplotlib"]
"""What the page needs of JupyterLab's extensions; others that are installed may not fit into it."""

SOURCES = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self' ws://127.0.0.1:*; "
    "frame-ancestors 'self'"
)
"""Where the page may fetch from: its own server. Voila's page asks elsewhere for icons, which it does without."""


def demand_packages(lab: bool) -> None:
    """`ValueError` that says what to install, where something is missing."""
    if missing := [name for name in (*NEEDED, SHOWN_BY[lab]) if find_spec(name) is None]:
        raise ValueError(
            f"the explorer's page needs {', '.join(missing)}, not installed here: pip install 'evssm-lab[explore]'; "
            "--save FILE and --static FILE.html do without"
        )


def serve(how: dict[str, Any], out: Path, *, lab: bool, port: int, browser: bool) -> None:
    """Serves the explorer until it is interrupted; prints its address, which holds the key, before."""
    out.mkdir(parents=True, exist_ok=True)
    port, key = port or _free_port(), secrets.token_hex(24)
    cell = f"from evssm.cli.explore import page\n\npage({str(Path.cwd())!r}, {str(out)!r}, **{how!r})"
    if lab:
        notebook = _notebook(out / "explorer.ipynb", cell)
        address = f"http://{LOOPBACK}:{port}/lab/tree/{notebook.name}?token={key}"
        _announce(address)
        _serve_lab(notebook, port, key, browser)
        return
    with tempfile.TemporaryDirectory(prefix="evssm-explore-") as folder:
        _serve_page(_notebook(Path(folder) / "explorer.ipynb", cell), port, key, browser)


def page_server(notebook: Path, port: int, key: str) -> Any:
    """Voila, ready to start, as it is allowed to be: whatever a user's own settings of Voila say."""
    from voila.app import Voila

    server = Voila.instance()
    server.initialize([str(notebook), "--no-browser", f"--port={port}"])
    server.ip, server.port_retries, server.token = LOOPBACK, 0, key
    server.tornado_settings = {"headers": {"Content-Security-Policy": SOURCES}}
    given = server.voila_configuration
    given.file_allowlist, given.file_denylist = [], [".*"]
    given.strip_sources, given.show_tracebacks, given.preheat_kernel = True, False, False
    given.allow_template_override = given.allow_theme_override = "NO"
    given.extension_allowlist = EXTENSIONS
    return server


def _serve_page(notebook: Path, port: int, key: str, browser: bool) -> None:
    from tornado.ioloop import IOLoop

    server = page_server(notebook, port, key)
    address = f"http://{LOOPBACK}:{port}/?token={key}"
    IOLoop.current().add_callback(_announce, address)  # runs once it listens
    if browser:
        IOLoop.current().add_callback(webbrowser.open, address)
    server.start()


def _serve_lab(notebook: Path, port: int, key: str, browser: bool) -> None:
    from jupyterlab.labapp import LabApp

    folder = str(notebook.parent.resolve())
    words = [
        f"--ServerApp.ip={LOOPBACK}",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--ServerApp.root_dir={folder}",
        f"--ServerApp.open_browser={browser}",
        "--ServerApp.allow_remote_access=False",
        "--ServerApp.terminals_enabled=False",
        f"--LabApp.default_url=/lab/tree/{notebook.name}",
        f"--IdentityProvider.token={key}",
    ]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        words.append("--allow-root")  # whoever is root in a container has chosen so
    LabApp.launch_instance(words)


def _announce(address: str) -> None:
    typer.echo(f"the explorer is at {address}\nonly this machine reaches it; Ctrl-C ends it")
    sys.stdout.flush()


def _notebook(path: Path, cell: str) -> Path:
    """The path, once it holds a notebook with this one cell."""
    import nbformat

    from evssm.provenance import written_whole

    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell, id="explorer")])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    with written_whole(path) as part:
        nbformat.write(made, part)
    return path


def _free_port() -> int:
    """A port of this machine that nothing listens on just now."""
    with socket.socket() as found:
        found.bind((LOOPBACK, 0))
        return int(found.getsockname()[1])
