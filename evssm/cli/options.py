"""Arguments and options that several commands take, with what `--help` says of them."""

from pathlib import Path
from typing import Annotated

import typer

Networks = Annotated[
    list[str], typer.Argument(help="Names from `evssm list`, or your own network as package.module:callable.")
]
Network = Annotated[
    str, typer.Argument(help="A name from `evssm list`, or your own network as package.module:callable.")
]
WeightsOfEach = Annotated[
    list[str] | None,
    typer.Option(help="Weights, as FILE for a single network or NAME=FILE; official checkpoints or our own files."),
]
Weights = Annotated[str | None, typer.Option(help="File of weights: an official checkpoint or our own.")]
Local = Annotated[bool, typer.Option("--local", help="Released test-time windows (EVSSM, NAFNet).")]
Untrained = Annotated[
    bool,
    typer.Option(
        "--untrained", help="Random weights, also where trained ones are bundled; pictures and tables say so."
    ),
]
Select = Annotated[
    str | None, typer.Option(help="Which output of a network with several is the image: a number or a key.")
]
MiddleOfOne = Annotated[
    str | None, typer.Option(help="Cut N or HxW pixels from the image's middle; a bundled photograph is cut to 256.")
]
MiddleOfEach = Annotated[str, typer.Option(help="What is cut from the middle of each image: N or HxW pixels.")]
Stages = Annotated[
    list[str] | None, typer.Option(help="Patterns of stage names, such as encoder.0.*; by default all that apply.")
]
Seed = Annotated[int, typer.Option(help="For random weights, and for whatever else is drawn.")]
Tile = Annotated[
    int, typer.Option(help="Edge of the tiles in pixels, for images too large for the memory; 0: whole images.")
]
Overlap = Annotated[int, typer.Option(help="Pixels by which two tiles overlap at least.")]
Ensemble = Annotated[
    str, typer.Option(help="none; x4: quarter turns; x4-frames: EVSSM's own turns; x8: all. Costs as many runs.")
]
Check = Annotated[
    bool, typer.Option("--check", help="Judge each map: whether its order matters, and its weights. Takes long.")
]
Photograph = Annotated[Path | None, typer.Option(help="An image, taken whole; a bundled photograph otherwise.")]
Box = Annotated[
    str, typer.Option(help="The region as ROW,COLUMN,HEIGHT,WIDTH in what is left after cutting, or centre.")
]
Surroundings = Annotated[
    str, typer.Option(help="Pixels around the region that the network sees, or whole: all of the image.")
]
Reduce = Annotated[str, typer.Option(help="grad: how strong the region's edges are; sum: of its values.")]
OfRegion = Annotated[str, typer.Option("--residual", help="include: of F(x); exclude: of F(x) - x.")]
Out = Annotated[Path, typer.Option(help="Folder of the results.")]
Photographs = Annotated[
    list[Path] | None, typer.Option(help="An image or a folder of them, taken whole; a bundled photograph otherwise.")
]
Cluster = Annotated[
    str | None,
    typer.Option(
        help="Where to compute, with several images or networks: local (processes of this machine), slurm, or the "
        "address of a Dask scheduler; this process otherwise."
    ),
]
Workers = Annotated[
    int | None, typer.Option(help="Processes or jobs of --cluster; by default one for each GPU or CPU core.")
]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Threads = Annotated[
    int | None, typer.Option(help="CPU threads of a task; with --cluster 1, else as many as torch takes.")
]
PICTURES = 8
"""Of several images, so many are drawn unless told otherwise."""
Pictures = Annotated[int, typer.Option(help="How many of several images are drawn; the table has them all.")]
