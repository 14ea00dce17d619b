"""`evssm evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evssm.cli.app import app
from evssm.cli.common import file_for, plain, progress, the_network, told_in_a_line
from evssm.cli.options import Ensemble, Networks, Out, Overlap, Seed, Tile, Untrained, WeightsOfEach

if TYPE_CHECKING:
    from evssm.data.pairs import Pairs

EMBEDDED, STRAIGHT = "embedded", "embedded-straight"


@app.command(
    epilog="Example: evssm evaluate evssm nafnet --weights evssm=net_g_GoPro.pth "
    "--weights nafnet=NAFNet-GoPro-width64.pth --data datasets/GoPro/test --local both --ssim volume --out scores"
)
def evaluate(
    networks: Networks,
    weights: WeightsOfEach = None,
    data: Annotated[
        str,
        typer.Option(
            help="A folder of a published layout, or held-out photographs that are blurred here: by winding camera "
            "shake (embedded) or even motion along lines (embedded-straight), which the compact networks learnt."
        ),
    ] = EMBEDDED,
    dataset: Annotated[str | None, typer.Option(help="Which data set, where the folder holds several.")] = None,
    split: Annotated[str | None, typer.Option(help="train, val or test, where the folder holds several.")] = None,
    variant: Annotated[str, typer.Option(help="GoPro's blur or blur_gamma.")] = "blur",
    mode: Annotated[str, typer.Option(help="DPDD: single, or dual-pixel for its two views.")] = "single",
    limit: Annotated[int, typer.Option(help="Only so many pairs, evenly chosen; 0: all.")] = 0,
    rounding: Annotated[
        str, typer.Option(help="8-bit and 16-bit clamp and round before comparing; none compares floats.")
    ] = "8-bit",
    ssim: Annotated[
        str, typer.Option(help="gauss (RealBlur), uniform (DPDD) or volume (MATLAB's, GoPro and HIDE columns).")
    ] = "gauss",
    crop: Annotated[int, typer.Option(help="Pixels at each border that are not compared.")] = 0,
    align: Annotated[str, typer.Option(help="none; ecc: RealBlur's alignment, whose failures are counted.")] = "none",
    local: Annotated[
        str, typer.Option(help="Released test-time windows (EVSSM, NAFNet): off, on, or both as two rows.")
    ] = "off",
    tile: Tile = 0,
    overlap: Overlap = 64,
    ensemble: Ensemble = "none",
    untrained: Untrained = False,
    seed: Seed = 0,
    out: Out = Path("scores"),
) -> None:
    """PSNR and SSIM: a row per image as .csv, means with intervals as .json, and a table of all networks."""
    from evssm.evaluate import evaluate as run
    from evssm.inference import Inference
    from evssm.metrics import Protocol
    from evssm.scores import Scores, comparison
    from evssm.sidecar import command_line, write_sidecar

    protocol = Protocol(rounding, ssim, crop, align)
    inference = Inference(tile or None, overlap, ensemble)
    files = {name: file_for(name, networks, weights or []) for name in networks}
    wanted = [(name, on) for name in networks for on in ways(name, local)]
    made = [(name, the_network(name, files[name], on, untrained, seed)) for name, on in wanted]
    pairs, label = the_pairs(data, limit, dataset=dataset, split=split, variant=variant, mode=mode)
    out.mkdir(parents=True, exist_ok=True)
    found, written = [], []
    with progress() as track:
        for (name, net), (_, on) in zip(made, wanted, strict=True):
            used = ["local"] * on + [f"tile{tile}"] * bool(tile) + [ensemble] * (ensemble != "none")
            title = "_".join([plain(name), *used])
            path = out / f"{title}.csv"

            def say(line: str, title: str = title) -> None:
                typer.echo(f"{title}: {line}", err=True)

            with told_in_a_line(name, own=":" in name):
                scores: Scores = run(
                    net,
                    pairs,
                    data=label,
                    protocol=protocol,
                    inference=inference,
                    path=path,
                    untrained=untrained,
                    progress=track(title),
                    say=say,
                )
            found.append(scores)
            written += [scores.save(path, command=command_line()), path.with_suffix(".json")]
    rows = comparison(found)
    written.append(write_sidecar(out / "table.json", {"command": command_line(), "data": label, "rows": rows}))
    show(rows, label)
    for path in written:
        typer.echo(path)


def ways(name: str, local: str) -> list[bool]:
    """Without windows, with, or both; a network that has no windows is run once where both are asked for."""
    from inspect import signature

    from evssm.models import MODELS

    if local not in ("off", "on", "both"):
        raise ValueError(f"--local is off, on or both, not {local!r}")
    if local != "both":
        return [local == "on"]
    has_windows = name in MODELS and "local" in signature(MODELS[name].network).parameters
    return [False, True] if has_windows else [False]


def the_pairs(data: str, limit: int, **which: Any) -> "tuple[Pairs, str]":
    """The pairs of a folder or the embedded ones, and what a table must say of them."""
    from evssm.data.embedded import embedded_test
    from evssm.data.folders import paired_folder

    pairs: Any
    if data in (EMBEDDED, STRAIGHT):
        split = which["split"] or "test"
        pairs = embedded_test(split=split, straight=data == STRAIGHT)
        label = f"{'straight motion' if data == STRAIGHT else 'embedded camera shake'}, {split}"
    else:
        pairs = paired_folder(data, **which)
        label = str(pairs.label)
    if not 0 <= limit <= len(pairs):
        raise ValueError(f"--limit {limit} of {len(pairs)} pairs; give 1 to {len(pairs)}, or 0 for all")
    if not limit:
        return pairs, label
    chosen = [k * len(pairs) // limit for k in range(limit)]
    return Some(pairs, chosen), f"{label}, {limit} of {len(pairs)} pairs"


class Some:
    """The pairs of a data set at some of its places."""

    def __init__(self, pairs: Any, places: list[int]) -> None:
        self.pairs, self.places = pairs, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, i: int, /) -> Any:
        return self.pairs[self.places[i]]


def show(rows: list[dict[str, Any]], label: str) -> None:
    """Prints the table, with the protocol above it and what to beware of below."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=160)
    console.print(f"{label}; {rows[0]['protocol']}", markup=False, soft_wrap=True)
    table = Table("network", "images", "PSNR, dB", "95 %", "SSIM", "gain, dB", "cost", box=None, header_style="bold")
    blurred = rows[0]["mean"]
    table.add_row(
        "blurred input",
        str(rows[0]["images"]),
        _number(blurred["blurred_psnr"], 3),
        "",
        _number(blurred["blurred_ssim"], 4),
        "",
        "",
    )
    for row in rows:
        mean, within = row["mean"], row["interval_95"]["psnr"]
        table.add_row(
            escape(row["network"]),
            f"{row['scored']}/{row['images']}",
            _number(mean["psnr"], 3),
            f"{within[0]:.2f} to {within[1]:.2f}" if within else "missing",
            _number(mean["ssim"], 4),
            _number(mean["gain"], 3),
            f"x{mean['cost']:.2f}",
        )
    console.print(table)
    for row in rows:
        for line in row["cautions"]:
            console.print(f"caution: {row['network']}: {line}", markup=False, soft_wrap=True)


def _number(value: float | None, digits: int) -> str:
    return "missing" if value is None else f"{value:.{digits}f}"
