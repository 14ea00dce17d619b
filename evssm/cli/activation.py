"""`evssm activation`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evssm.cli.app import app
from evssm.cli.common import (
    answers,
    file_for,
    image_sources,
    peak_memory,
    plain,
    progress,
    stem_of,
    tasks_of,
    the_queries,
    told_in_a_line,
    write_table,
)
from evssm.cli.options import (
    PICTURES,
    Check,
    Cluster,
    Device,
    Local,
    MiddleOfOne,
    Out,
    Photographs,
    Pictures,
    Seed,
    Stages,
    Threads,
    Untrained,
    WeightsOfEach,
    Workers,
)

if TYPE_CHECKING:
    from analysis.map_verdict import MapVerdict
    from analysis.questions import RowsQuestion
    from analysis.row_map import ScanRow
    from evssm.sources import ImageSource, NetworkSource

COMPANIONS = {"evssm": ("evssm-four-direction", "evssm-no-geot"), "evssm2": ("evssm2-no-geot",)}
"""What stands beside a network in Fig. 6: four directions in every block, and no turns."""


@app.command(epilog="Example: evssm activation evssm-compact --image photo.png --query 120,300 --out results")
def activation(
    networks: Annotated[
        list[str],
        typer.Argument(help="EVSSM or its variants from `evssm list`, or your own as package.module:callable."),
    ],
    weights: WeightsOfEach = None,
    image: Photographs = None,
    size: MiddleOfOne = None,
    query: Annotated[str, typer.Option(help="ROW,COLUMN in what is left after cutting, or centre.")] = "centre",
    stages: Stages = None,
    level: Annotated[str, typer.Option(help="A0 to A7: what a map contains; A3 is the scan's own matrix.")] = "A3",
    kind: Annotated[
        str, typer.Option(help="row: what the pixel gathers; column: where it goes, through all outputs.")
    ] = "row",
    reduction: Annotated[str, typer.Option(help="Channels to one map: abs, rms, signed or output.")] = "abs",
    scale: Annotated[
        str, typer.Option(help="each: a map relative to its own maximum; shared: to its network's.")
    ] = "each",
    style: Annotated[
        str | None, typer.Option(help="log (four decades), linear or signed; by default log, and signed for signed.")
    ] = None,
    compare: Annotated[
        bool, typer.Option(help="Beside a single EVSSM, its four-direction form and the one w/o F&T.")
    ] = True,
    check: Check = False,
    local: Local = False,
    untrained: Untrained = False,
    seed: Seed = 0,
    pictures: Pictures = PICTURES,
    cluster: Cluster = None,
    workers: Workers = None,
    device: Device = "cpu",
    threads: Threads = None,
    out: Out = Path("activation"),
) -> None:
    """What a pixel gathers in every selective scan (Fig. 6), or where it goes: a picture, the maps as .npz, their
    checks as .json.

    Of several images the first few are drawn, and a table has the numbers of all.
    """
    from analysis.activation_figure import SCALES, activation_panels
    from analysis.activation_plots import STYLES
    from analysis.kept_rows import save_rows
    from analysis.map_verdict import check_rows, tally
    from analysis.panels import save_figure
    from analysis.questions import RowsQuestion
    from evssm.sidecar import command_line, write_sidecar
    from evssm.sources import NetworkSource

    for option, given, known in (("scale", scale, SCALES), ("style", style or "log", STYLES)):
        if given not in known:
            raise ValueError(f"--{option} {given} is unknown; choose from {', '.join(known)}")
    photographs = image_sources(image or [], size)[: None if image else 1]
    if check and len(photographs) > 1:
        raise ValueError(f"--check judges the maps of one image, not of {len(photographs)}; name one")
    asked = list(dict.fromkeys(networks))
    files = {one: file_for(one, asked, weights or []) for one in asked}
    beside = _beside(asked, untrained) if compare else []
    sources = {one: NetworkSource(one, files.get(one), local, untrained, seed) for one in [*asked, *beside]}
    place = the_queries(query)
    question = RowsQuestion(
        place if isinstance(place, str) else place[0], tuple(stages) if stages else None, level, reduction, kind
    )
    out.mkdir(parents=True, exist_ok=True)
    verdicts = {}
    with progress() as track:
        where = cluster, workers, device, threads
        found = answers(sources.values(), photographs, [question], out, where, track)
        for one, source in sources.items() if check else ():
            with told_in_a_line(one, own=source.own):
                rows = question.load(found[source][0][0])
                verdicts[one] = check_rows(
                    source.make(), photographs[0].read(), rows, seed=seed, track=tasks_of(track, one)
                )
    notes = {one: tally(of_one) for one, of_one in verdicts.items()}
    written: list[Path] = []
    for number, photograph in enumerate(photographs[:pictures] if len(photographs) > 1 else photographs):
        maps = {one: question.load(found[source][number][0]) for one, source in sources.items()}
        figure = activation_panels(maps, photograph.read(), scale=scale, style=style, notes=notes)
        written += save_figure(figure, out / stem_of("activation", photographs, number), command=command_line())
    facts: dict[str, Any] = {"command": command_line(), "seed": seed, "peak_memory_bytes": peak_memory()}
    if len(photographs) == 1:
        for one, rows in maps.items():
            save_rows(out / f"activation_{plain(one)}.npz", rows)
        facts |= {"image": photographs[0].name, "maps": _about(maps, verdicts)}
        errors = [row.check() for rows in maps.values() for row in rows.values()]
    else:
        table = _table(sources, photographs, question, found)
        written.append(write_table(out / "activation.csv", table))
        facts |= {"images": [photograph.name for photograph in photographs], "drawn": pictures}
        errors = [row["error"] for row in table]
    for one, of_one in verdicts.items():
        for stage, verdict in of_one.items():
            typer.echo(f"{one} {stage}: {verdict}")
    for path in (*written, write_sidecar(out / "activation.json", facts)):
        typer.echo(path)
    typer.echo(f"largest reconstruction error {max(errors):.1e}; peak memory {peak_memory() / 2**30:.2f} GiB")


def _about(
    maps: "dict[str, dict[str, ScanRow]]", verdicts: "dict[str, dict[str, MapVerdict]]"
) -> dict[str, dict[str, dict[str, Any]]]:
    """What the sidecar says of the maps of one image, by network and stage."""
    facts: dict[str, dict[str, dict[str, Any]]] = {
        one: {
            stage: {"error": row.check(), "share_inside": row.share_inside(), "made": row.provenance}
            for stage, row in rows.items()
        }
        for one, rows in maps.items()
    }
    for one, of_one in verdicts.items():
        for stage, verdict in of_one.items():
            facts[one][stage]["check"] = verdict.as_dict()
    return facts


def _table(
    sources: "dict[str, NetworkSource]",
    photographs: "list[ImageSource]",
    question: "RowsQuestion",
    found: "dict[NetworkSource, list[list[Path]]]",
) -> list[dict[str, Any]]:
    """The checks of every map, a row for each image, network and stage, and the file that holds the map."""
    return [
        {
            "image": photograph.name,
            "network": one,
            "stage": stage,
            "error": row.check(),
            "share_inside": row.share_inside(),
            "file": path.name,
        }
        for one, source in sources.items()
        for photograph, (path,) in zip(photographs, found[source], strict=True)
        for stage, row in question.load(path).items()
    ]


def _beside(asked: list[str], untrained: bool) -> list[str]:
    """The networks to show beside a single one: those that have weights, or may go without."""
    from evssm.weights import bundled

    if len(asked) != 1:
        return []
    base = asked[0].removesuffix("-compact")
    suffix = asked[0][len(base) :]
    names = [name + suffix for name in COMPANIONS.get(base, ())]
    return [name for name in names if untrained or name in bundled()]
