"""What a result was made on, and with which state of this project."""

import os
import platform
import subprocess
from pathlib import Path

import torch


def hardware(device: str | torch.device = "cpu") -> str:
    """The processor that computed, in words: its name, and for a CPU its family, model, stepping and the threads used.

    Virtual machines give quite different processors one name ("Intel(R) Xeon(R) Processor"), hence the numbers.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.get_num_threads()} threads"


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text(errors="replace").partition("\n\n")[0].splitlines() if file.exists() else []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    if "model name" not in facts:
        return platform.processor() or platform.machine()
    numbers = {"family": "cpu family", "model": "model", "stepping": "stepping"}
    return ", ".join([facts["model name"], *(f"{word} {facts[key]}" for word, key in numbers.items() if key in facts)])


def commit() -> str | None:
    """The commit that this project's folder is at, with "+" where files differ from it; `None` outside of git."""
    folder = Path(__file__).parent.parent
    if not (folder / ".git").exists():
        return None
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}

    def git(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
