"""What a figure leaves behind: pictures, and a card in JSON that says what they show and how it was made."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure as Drawing
from sources import ROOT, digest_of, sources_of
from torch import Tensor

from analysis.panels import save_figure
from evssm.photographs import MORE_PHOTOGRAPHS, PHOTOGRAPHS
from evssm.provenance import written_whole
from evssm.sidecar import versions, write_sidecar
from evssm.stamp import image_sha256

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Picture:
    """One picture of a figure, in words too: `alt` is what somebody who does not see it must know.

    `draw(captioned, narrow)` arranges it, across two columns or narrow. `suffix` tells its files from those of the
    figure's first picture, `label` says on a page how it differs from that.
    """

    draw: Callable[[bool, bool], Drawing]
    alt: str
    label: str = ""
    suffix: str = ""


def save_card(
    name: str,
    pictures: Sequence[Picture],
    *,
    script: str,
    table: str,
    caption: str,
    weights: Iterable[Mapping[str, Any]],
    images: Mapping[str, Tensor],
    facts: Mapping[str, Any] | None = None,
) -> list[Path]:
    """The files of a figure: its table in Markdown, its card, and each picture as PNG, PDF and, for pages, as SVG.

    `weights` are provenances of networks as dictionaries, `images` what the networks saw, by name. PNG and PDF bear
    their caption, and all have command, hashes and versions inside.
    """
    command = f"python figures/make.py {script}"
    origins = [dict(one) for one in weights]
    shown = [_image(name, image) for name, image in images.items()]
    made = {
        "caption": caption,
        "weights": {str(one["file"] or one["model"]): one["tensors_sha256"] for one in origins},
        "images": {image["name"]: image["sha256"] for image in shown},
        "versions": versions(),
    }
    written, entries = [HERE / f"{name}.md"], []
    with written_whole(written[0]) as part:
        part.write_text(table, encoding="utf-8")
    for picture in pictures:
        stem = HERE / f"{name}{picture.suffix}"
        written += save_figure(picture.draw(True, False), stem, command=command, made=made)
        wide = save_figure(picture.draw(False, False), stem, command=command, made=made, formats=("svg",))
        thin = stem.with_name(f"{stem.name}_narrow")
        narrow = save_figure(picture.draw(False, True), thin, command=command, made=made, formats=("svg",))
        written += [*wide, *narrow]
        entries.append(
            {
                "label": picture.label,
                "alt": picture.alt,
                "wide": wide[0].name,
                "narrow": narrow[0].name,
                "as": stem.name,
            }
        )
    card = {
        **(facts or {}),
        "figure": name,
        "command": command,
        "caption": caption,
        "pictures": entries,
        "table": written[0].name,
        "weights": origins,
        "images": shown,
        "sources": digest_of(sources_of(ROOT / "figures" / f"{script}.py")),
    }
    return [*written, write_sidecar(HERE / f"{name}.json", card)]


def _image(name: str, image: Tensor) -> dict[str, str]:
    """Name, digest and size of an image, and whose photograph it is, under which terms."""
    source = {**PHOTOGRAPHS, **MORE_PHOTOGRAPHS}[name.partition("-")[0]]
    h, w = image.shape[-2:]
    return {
        "name": name,
        "size": f"{h} x {w}",
        "sha256": image_sha256(image[None] if image.dim() == 3 else image),
        "credit": source.credit,
        "licence": source.licence,
    }
