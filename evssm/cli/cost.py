"""`evssm cost`."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from evssm.cli.app import app
from evssm.cli.common import progress, the_size, told_in_a_line
from evssm.cli.options import Local, Networks, Out


@app.command(epilog="Example: evssm cost evssm nafnet --size 256x256 --time --threads 1")
def cost(
    networks: Networks,
    size: Annotated[str, typer.Option(help="Of the images: N or HxW pixels.")] = "256",
    batch: Annotated[int, typer.Option(help="Images at once.")] = 1,
    channels: Annotated[
        int | None, typer.Option(help="Of the images; 3 unless given, and 6 for our dual-pixel networks.")
    ] = None,
    local: Local = False,
    published: Annotated[
        float | None, typer.Option(help="A published number in G: says which way of counting comes nearest.")
    ] = None,
    time: Annotated[bool, typer.Option("--time", help="Also seconds and peak memory, in a fresh process.")] = False,
    device: Annotated[str, typer.Option(help="For --time: cpu, cuda, cuda:1.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="For --time: float32, float64, bfloat16 or float16.")] = "float32",
    threads: Annotated[int | None, typer.Option(help="For --time; torch's own choice unless given.")] = None,
    warm_up: Annotated[int, typer.Option(help="For --time: passes before those that count.")] = 2,
    repeats: Annotated[int, typer.Option(help="For --time: passes that count.")] = 10,
    out: Out = Path("cost"),
) -> None:
    """Parameters, multiply-adds and operations by kind; with --time seconds and peak memory. Weights do not matter."""
    from analysis.costs import PUBLISHED
    from analysis.costs import cost as count
    from analysis.timing import runtime
    from evssm.models import MODELS
    from evssm.provenance import written_whole
    from evssm.sidecar import command_line, write_sidecar

    pixels, kind = the_size(size), the_dtype(dtype)
    made = {name: unloaded(name, local) for name in networks}
    found = {}
    with progress() as track:
        for name, net in made.items():
            views = channels or (6 if name in MODELS and MODELS[name].arguments.get("dual_pixel") else 3)
            known = PUBLISHED.get(name) if (pixels, batch, local) == ((256, 256), 1, False) else None
            claim = published * 1e9 if published is not None else known
            bar = track(name)
            bar(0, 1 + time)
            with told_in_a_line(name, own=":" in name):
                counted = count(net, pixels, batch=batch, channels=views, name=name)
                bar(1, 1 + time)
                timed = None
                if time:
                    options = {"device": device, "dtype": kind, "threads": threads}
                    timed = runtime(
                        net, pixels, batch=batch, channels=views, warm_up=warm_up, repeats=repeats, **options
                    )
                    bar(2, 2)
            found[name] = {**counted.as_dict(), "time": timed and timed.as_dict()}
            typer.echo("\n".join([counted.table(claim), *([timed.line()] if timed else []), ""]))
    out.mkdir(parents=True, exist_ok=True)
    with written_whole(out / "cost.csv") as part:
        part.write_text(as_csv(found), encoding="utf-8")
    typer.echo(out / "cost.csv")
    typer.echo(write_sidecar(out / "cost.json", {"command": command_line(), "networks": found}))


def unloaded(name: str, local: bool) -> Callable[..., Any]:
    """The network, with weights of no meaning."""
    from evssm.foreign import own_network
    from evssm.models import build

    return own_network(name) if ":" in name else build(name, **({"local": True} if local else {}))


def the_dtype(name: str) -> Any:
    import torch

    known = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise ValueError(f"--dtype {name} is unknown; choose {', '.join(known)}")
    return known[name]


def as_csv(found: dict[str, dict[str, Any]]) -> str:
    """A line per network: parameters, operations by kind, totals, and seconds and bytes where they were measured."""
    kinds = list(next(iter(found.values()))["flops"])
    lines = ["network,parameters,conv_linear_macs," + ",".join(f"flops {kind}" for kind in kinds)]
    lines[0] += ",total_flops,median_seconds,median_cpu_seconds,peak_bytes,unknown_operators"
    for name, facts in found.items():
        timed = facts["time"] or {}
        numbers = [facts["parameters"], facts["conv_linear_macs"], *facts["flops"].values(), facts["total_flops"]]
        numbers += [timed.get(key) for key in ("median", "cpu_median", "peak_bytes")]
        lines.append(",".join([name, *("" if n is None else f"{n}" for n in numbers), " ".join(facts["unknown"])]))
    return "\n".join(lines) + "\n"
