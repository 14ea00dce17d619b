"""The explorer's page as it is served: on this machine alone, with a key, nothing but the page; and in a browser."""

import os
import re
import shutil
import signal
import subprocess
import sys
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path
from time import sleep
from urllib.parse import parse_qs, urlsplit

import psutil
import pytest

pytestmark = pytest.mark.skipif(  # not by importing them: ipympl makes every figure of the process a widget
    any(find_spec(package) is None for package in ("voila", "ipympl")),
    reason="the explorer's page is optional: pip install 'evssm-lab[explore]'",
)

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = """
    --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync
"""
SOCKETS = Path("/proc/net/tcp").exists()
PATIENCE = 240_000
"""Milliseconds that a busy machine may take to start a kernel and draw."""


class Page:
    """A served explorer: its process, its address, and plain requests to it."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.folder = folder
        (folder / "secret.png").write_bytes(b"a picture that is nobody's business")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "evssm", "explore", "--no-browser", "--size", "32x48", *words],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.address = re.search(r"http://\S+", line)[0]
        self.port = urlsplit(self.address).port
        self.key = parse_qs(urlsplit(self.address).query)["token"][0]

    def get(self, path: str, *, key: bool = False, method: str = "GET") -> tuple[int, str]:
        """Status and body of a request, whose path goes over the wire as it is."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.request(method, path, headers={"Authorization": f"token {self.key}"} if key else {})
        answer = connection.getresponse()
        body = answer.read().decode("utf-8", "replace")
        connection.close()
        return answer.status, body

    def kernels(self) -> list[psutil.Process]:
        """The kernels that run, one for each open page."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [one for one in children if "ipykernel" in " ".join(one.cmdline())]

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    served = Page(tmp_path_factory.mktemp("page"))
    yield served
    served.close()


def test_it_is_given_out_with_its_key_alone(page):
    status, body = page.get("/")
    assert status in (302, 403)
    assert "jupyter-config-data" not in body
    other = page.key[:-1] + ("1" if page.key.endswith("0") else "0")
    assert page.get(f"/?token={other}")[0] in (302, 403)
    assert len(page.key) == 48


@pytest.mark.parametrize("path", ["/api/kernels/%s", "/voila/api/shutdown/%s", "/api/kernels/%s/channels"])
def test_kernels_are_out_of_reach_without_the_key(page, path):
    some = "00000000-0000-0000-0000-000000000000"
    for method in ("GET", "POST", "DELETE"):
        assert page.get(path % some, method=method)[0] in (302, 403, 404, 405)
    assert page.get("/api/kernels", method="POST")[0] in (302, 403, 404, 405)


@pytest.mark.parametrize("start", ["/", "/voila/files/", "/voila/static/", "/voila/templates/lab/static/", "/files/"])
@pytest.mark.parametrize("key", [False, True])
def test_no_file_is_given_out(page, start, key):
    here = page.folder.as_posix()
    for path in (
        "explorer.ipynb",
        "secret.png",
        f"{here}/secret.png",
        f"../../../../../../../../../..{here}/secret.png",
        f"..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2f..{here}/secret.png",
        f"%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e{here}/secret.png",
        "../../../../../../../../../../etc/passwd",
    ):
        status, body = page.get(start + path, key=key)
        assert status >= 300, (start, path, status)  # of its templates Voila stumbles over such paths: 500
        assert "nobody's business" not in body
        assert "root:" not in body
        assert "evssm.cli.explore" not in body


@pytest.mark.parametrize("path", ["/api/contents", "/api/contents/explorer.ipynb", "/tree", "/edit/secret.png"])
def test_there_are_no_contents_to_list(page, path):
    status, body = page.get(path, key=True)
    assert status in (302, 403, 404)
    assert "evssm.cli.explore" not in body


def listening(port: int) -> list[str]:
    """The addresses at which something listens on a port, as Linux writes them."""
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return [line[1].split(":")[0] for line in lines if line[1].endswith(f":{port:04X}") and line[3] == "0A"]


@pytest.mark.skipif(not SOCKETS, reason="reads the sockets where Linux lists them")
def test_only_this_machine_is_listened_to(page):
    assert listening(page.port) == ["0100007F"]


@pytest.mark.skipif(not SOCKETS, reason="reads the sockets where Linux lists them")
def test_jupyterlab_has_the_explorer_and_asks_for_the_key(tmp_path):
    lab = Page(tmp_path, "--lab")
    try:
        for _ in range(600):  # it announces itself before it listens
            if listening(lab.port):
                break
            sleep(0.2)
        assert listening(lab.port) == ["0100007F"]
        assert lab.get("/api/contents/explorer.ipynb")[0] == 403
        status, body = lab.get("/api/contents/explorer.ipynb", key=True)
        assert status == 200
        assert "evssm.cli.explore" in body
        assert lab.get("/api/contents/..%2Fsecret.png", key=True)[0] == 404
        assert lab.get("/api/terminals", key=True)[0] == 404
    finally:
        lab.close()


def test_a_killed_kernel_costs_its_own_page_alone(page):
    assert page.get("/", key=True)[0] == 200
    killed = page.kernels()
    for kernel in killed:
        kernel.kill()
    status, body = page.get("/", key=True)
    assert killed
    assert status == 200
    assert "voila_finish" in body
    assert {kernel.pid for kernel in page.kernels()} - {kernel.pid for kernel in killed}


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; .ci/run installs it: apt-get install chromium")
def test_a_click_in_a_browser_changes_the_maps(page):
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.set_default_timeout(PATIENCE)
        tab.goto(page.address)
        tab.get_by_text("pixel 16, 24; rows rebuild").wait_for()
        panel, canvas = (
            tab.locator("img.widget-image").first,
            tab.locator(".jupyter-matplotlib-canvas-container canvas"),
        )
        before = panel.get_attribute("src"), pixels(tab)
        place = canvas.first.bounding_box()
        tab.mouse.click(place["x"] + 0.8 * place["width"], place["y"] + 60)
        tab.get_by_text(re.compile(r"pixel \d+, 38; rows rebuild")).wait_for()
        after = panel.get_attribute("src"), pixels(tab)
        assert after[0] != before[0]
        assert after[1] != before[1]
        tab.keyboard.press("ArrowLeft")
        tab.get_by_text(re.compile(r"pixel \d+, 37; rows rebuild")).wait_for()
        browser.close()


def pixels(tab):
    """The clicked canvas as the browser shows it."""
    return tab.evaluate("document.querySelector('.jupyter-matplotlib-canvas-container canvas').toDataURL()")
