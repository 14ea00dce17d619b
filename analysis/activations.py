"""Activation maps of selective scans (Kong et al. 2025, Fig. 6): rows of the implicit attention, module by module."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from copy import copy
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from analysis.borrow import borrowed
from analysis.inputs import check_fit, single_images
from analysis.module_columns import module_column
from analysis.module_rows import Line, Site, module_row
from analysis.own_scans import Adapter, Layouts, laid_out, rows_as_they_lie, scans_of
from analysis.queries import query_positions
from analysis.row_map import NORMALISATIONS, REDUCTIONS, ScanRow, normalised, reduced
from analysis.scan_rows import Scan
from evssm.hooks import matching
from evssm.mamba2 import Mamba2
from evssm.mixer import SS2D
from evssm.models.evssm import Block
from evssm.models.stages import Stage, stages
from evssm.stamp import image_sha256, network_stamp

Network = Callable[..., Any]

SCANNING = (SS2D, Mamba2)
"""The modules whose scans are known."""

Query = Any  # (row, column), or "centre"


def scan_row(
    net: Network,
    image: Tensor,
    query: Query,
    stage: str,
    *,
    level: str = "A3",
    trained: bool | None = None,
    **options: Any,
) -> ScanRow:
    """What the image pixel `query` gathers in the scan of `stage`, at full resolution, as the image lies.

    `query` is (row, column) or "centre"; `stage` a block of EVSSM or its mixer, by our name or the official one;
    `level` one of `LEVELS`. The map holds alpha[t, s] for every s, t the query: the row of the matrix that the scan
    applies to its input (`analysis.scan_rows`), in time that grows with the number of pixels. Where the network works
    in windows, those around the query are stitched and averaged as it averages them; directions are added as it adds
    them before its norm. `trained` says what you know about the weights; `options` are those of `ScanCache.row`. For
    several queries or stages, and for networks that are not ours, see `ScanCache`.

    Raises `LookupError` for a stage that does not exist or does not scan, and `ValueError` for a query outside the
    image.
    """
    return ScanCache(net, image, stage, trained=trained).row(query, stage, level=level, **options)


def scan_column(
    net: Network,
    image: Tensor,
    query: Query,
    stage: str,
    *,
    level: str = "A3",
    trained: bool | None = None,
    **options: Any,
) -> ScanRow:
    """Where the image pixel `query` goes in the scan of `stage`: alpha[t, s] for every t; otherwise as `scan_row`.

    At every level an entry is that of the row of the pixel where it arrives: levels A6 and A7 say how the query moves
    each pixel's answer along that answer's own direction (`analysis.module_columns`).
    """
    return ScanCache(net, image, stage, trained=trained).row(query, stage, level=level, kind="column", **options)


def activation_maps(
    net: Network,
    image: Tensor,
    query: Query,
    stages: str | Sequence[str] | None = None,
    *,
    level: str = "A3",
    trained: bool | None = None,
    progress: Callable[[int, int], object] | None = None,
    **options: Any,
) -> dict[str, ScanRow]:
    """The `scan_row` of every scanning stage, or of those that match one of the patterns `stages`, by name.

    In the order of the forward pass. Without `keep_channels=False` each keeps its channels, which takes memory.
    """
    return ScanCache(net, image, stages, trained=trained).rows(query, level=level, progress=progress, **options)


class ScanCache:
    """One run of a network on one image, kept so that any query can be answered.

    Holds what entered each chosen module (`bytes` of it); a query recomputes the module's scan inputs, not the network.
    The network is handed back as it was; its weights must not change while the cache is used.
    """

    def __init__(
        self,
        net: Network,
        image: Tensor,
        stages: str | Sequence[str] | None = None,
        *,
        trained: bool | None = None,
        layout: Layouts | None = None,
        functions: Iterable[Callable[..., Any]] | None = None,
        adapters: Mapping[str, Adapter] | None = None,
    ) -> None:
        """`image` is `3 h w` or `1 3 h w`; `stages` are patterns of stage names, all that scan by default; `trained`
        says what you know about the weights where the network has no `provenance`.

        Of a network whose stages hold no mixer of ours, or with one of the last three arguments, its scans are taken,
        named "scan.0", "scan.1" ...: the calls of `evssm.selective_scan`, of mamba-ssm's function, of `functions` with
        the same arguments, or what `adapters` tell of modules (`analysis.own_scans.scans_of`). `layout` says of each
        how its steps lie, by default row by row, upright. All three default to what the network has as attributes
        `scan_layout`, `scan_functions` and `scan_adapters`. Scans are held whole, and known at levels A0-A4.

        Raises `LookupError` where no scanning stage matches and `ValueError` for anything but one image.
        """
        found = single_images(image)
        if len(found) != 1:
            raise ValueError(f"one image at a time, please; got {len(found)}")
        (x,) = found
        check_fit(net, x)
        patterns = [stages] if isinstance(stages, str) else stages
        self.size: tuple[int, int] = (x.shape[-2], x.shape[-1])
        self._net = net
        self._stamp = {**network_stamp(net), "image": image_sha256(x)}
        if trained is not None:
            self._stamp["trained"] = trained
        layout = getattr(net, "scan_layout", None) if layout is None else layout
        functions = getattr(net, "scan_functions", None) if functions is None else functions
        adapters = getattr(net, "scan_adapters", None) if adapters is None else adapters
        with borrowed(net), torch.no_grad():
            if layout is None and not functions and not adapters and knows_its_scans(net):
                self._sites = _entering(net, x, scanning_stages(net, patterns))
            else:
                with scans_of(net, functions=functions or (), adapters=adapters) as scans:
                    net(x)
                self._sites = _of_own(scans, layout or rows_as_they_lie(self.size), patterns)

    @property
    def names(self) -> list[str]:
        """The stages held, in the order of the forward pass; a second call of one is "name#2"."""
        return list(self._sites)

    def site(self, stage: str) -> Site:
        """What is held of one stage; `LookupError` for one that is not."""
        return self._sites[self._resolved(stage)]

    @property
    def sites(self) -> Mapping[str, Site]:
        """What is held of each stage: the mixer and what entered its block's branch."""
        return self._sites

    @property
    def stamp(self) -> dict[str, Any]:
        """What is known of the network, and the image's digest and size, in JSON values."""
        return {**self._stamp, "images": [self._stamp["image"]], "size": list(self.size)}

    @property
    def bytes(self) -> int:
        """Memory of what is held."""
        return sum(site.nbytes for site in self._sites.values())

    def row(
        self,
        query: Query,
        stage: str,
        *,
        level: str = "A3",
        kind: str = "row",
        reduction: str = "abs",
        normalisation: str = "none",
        residual: bool = True,
        keep_channels: bool = True,
    ) -> ScanRow:
        """The answer of one stage to one query; see `scan_row`.

        `kind` is "row" or "column"; `reduction` one of `REDUCTIONS`, `normalisation` one of `NORMALISATIONS`.
        `residual=False` leaves the block's own map out of levels A6 and A7, which otherwise puts a spike at the query.
        """
        for what, asked, known in (
            ("kind", kind, ("row", "column")),
            ("reduction", reduction, REDUCTIONS),
            ("normalisation", normalisation, NORMALISATIONS),
        ):
            if asked not in known:
                raise ValueError(f'no {what} "{asked}"; choose from {", ".join(known)}')
        site = self.site(stage)
        place = query_pixel(query, *self.size)
        h, w = site.frame.inverse.size(*site.x.shape[-2:])
        cell = (place[0] // site.stride, place[1] // site.stride)
        stored: Any = site.frame.points(cell, h, w)
        asked_of = nn.ModuleList(part for part in (site.mixer, site.norm) if part is not None)
        with borrowed(asked_of), torch.no_grad():
            ask = module_row if kind == "row" else module_column
            line = ask(site, stored, level, residual=residual)
        made = {"query": list(place), "stage": site.name, "residual": residual if level in ("A6", "A7") else None}
        return self._upright(site, line, cell, place, kind, level, reduction, normalisation, keep_channels, made)

    def rows(
        self,
        query: Query,
        stages: str | Sequence[str] | None = None,
        *,
        progress: Callable[[int, int], object] | None = None,
        **options: Any,
    ) -> dict[str, ScanRow]:
        """The answers of all stages held, or of those that match a pattern; `progress` is called with (done, total)."""
        names, found = self._chosen(stages), {}
        for done, name in enumerate(names, start=1):
            found[name] = self.row(query, name, **options)
            if progress is not None:
                progress(done, len(names))
        return found

    def rows_of(
        self,
        queries: Iterable[Query],
        stages: str | Sequence[str] | None = None,
        *,
        progress: Callable[[int, int], object] | None = None,
        **options: Any,
    ) -> dict[str, list[ScanRow]]:
        """What `rows` answers to each of the queries, in their order, for the same `options`.

        Stage by stage: what a stage scans is made once for all queries and held meanwhile, which takes many times the
        memory of its map. `progress` is called with (done, total) stages.
        """
        queries, names = list(queries), self._chosen(stages)
        found: dict[str, list[ScanRow]] = {}
        for done, name in enumerate(names, start=1):
            one = copy(self)
            one._sites = {name: self._sites[name].holding()}
            found[name] = [one.row(query, name, **options) for query in queries]
            if progress is not None:
                progress(done, len(names))
        return found

    def _chosen(self, stages: str | Sequence[str] | None) -> list[str]:
        """The names held, or those of them that match a pattern."""
        return self.names if stages is None else self._matching([stages] if isinstance(stages, str) else stages)

    def _matching(self, patterns: Sequence[str]) -> list[str]:
        """The names held that match one of the patterns."""
        if any(site.bare is not None for site in self._sites.values()):
            return _fitting(self.names, patterns)
        wanted = {stage.name for stage in scanning_stages(self._net, patterns)}
        return [name for name in self.names if name.partition("#")[0] in wanted]

    def _resolved(self, stage: str) -> str:
        if stage in self._sites:
            return stage
        names = self._matching([stage])
        if not names:
            raise LookupError(f"{stage} is not in this cache, which holds {', '.join(self.names)}")
        if len(names) > 1:
            raise LookupError(f"{stage} holds {len(names)} scans: {', '.join(names)}; name one of them")
        return names[0]

    def _upright(
        self,
        site: Site,
        line: Line,
        cell: tuple[int, int],
        query: tuple[int, int],
        kind: str,
        level: str,
        reduction: str,
        normalisation: str,
        keep_channels: bool,
        made: dict[str, Any],
    ) -> ScanRow:
        """The line as the image lies."""
        lines = site.frame.inverse(line.per_channel).contiguous().cpu().numpy()
        emphasis = None if line.emphasis is None else line.emphasis.cpu().numpy()
        how = {"kind": kind, "level": level, "reduction": reduction, "normalisation": normalisation}
        return ScanRow(
            map=normalised(reduced(lines, reduction, emphasis), normalisation),
            per_channel=lines if keep_channels else None,
            support=site.frame.inverse(line.support).numpy(),
            stage=site.name,
            query=query,
            cell=cell,
            stride=site.stride,
            size=self.size,
            rebuilt=line.rebuilt.double().cpu().numpy(),
            output=line.output.double().cpu().numpy(),
            provenance={
                **self._stamp,
                **how,
                **made,
                "size": list(self.size),
                "frame": str(site.frame),
                "window": site.window,
                "dtype": str(site.x.dtype).removeprefix("torch."),
                "torch": torch.__version__,
            },
            **how,
        )


def query_pixel(query: Query, h: int, w: int) -> tuple[int, int]:
    """The pixel (row, column) that `query` names in an image of `h w`; `ValueError` for several and one outside."""
    if isinstance(query, str) and query != "centre":
        raise ValueError(f'no query "{query}"; give one pixel, ROW,COLUMN, or "centre"')
    found = query_positions(query, h, w)
    if len(found) != 1:
        raise ValueError(f"one query at a time, please; got {len(found)}")
    return found[0]


def scanning_stages(net: Any, patterns: Iterable[str] | None = None) -> list[Stage]:
    """The stages of `net` whose module scans, in the order of the forward pass.

    A pattern (`*` and `?`) chooses them by our name, by the official one or by that of the block they stand in. Raises
    `LookupError` where one fits none, or where there are none at all.
    """
    scanning = [stage for stage in stages(net) if isinstance(net.get_submodule(stage.name), SCANNING)]
    if not scanning:
        raise LookupError(f"no stage of this {type(net).__name__} scans; activation maps are rows of a selective scan")
    if patterns is None:
        return scanning
    chosen = set()
    for pattern in patterns:
        under = matching(net, pattern)
        fitting = {s.name for s in scanning if any(s.name == name or s.name.startswith(f"{name}.") for name in under)}
        if not fitting:
            raise LookupError(f"nothing that matches {pattern!r} scans; try {scanning[0].name} or '*.mixer'")
        chosen |= fitting
    return [stage for stage in scanning if stage.name in chosen]


def knows_its_scans(net: Any) -> bool:
    """Whether a stage of the network is one of our mixers."""
    found = getattr(net, "stages", None) or ()
    return isinstance(net, nn.Module) and any(isinstance(net.get_submodule(stage.name), SCANNING) for stage in found)


def _entering(net: Any, x: Tensor, chosen: Sequence[Stage]) -> dict[str, Site]:
    """What enters the blocks' branches at these stages as the network runs on `x`, in that order."""
    sites: dict[str, Site] = {}
    with ExitStack() as stack:
        for stage in chosen:
            mixer = net.get_submodule(stage.name)
            block = net.get_submodule(stage.name.rpartition(".")[0])
            norm = block.norm1 if isinstance(block, Block) and block.mixer is mixer else None

            def keep(
                _module: nn.Module, inputs: Any, stage: Stage = stage, mixer: Any = mixer, norm: Any = norm
            ) -> None:
                key, calls = stage.name, 1
                while key in sites:
                    calls += 1
                    key = f"{stage.name}#{calls}"
                entered = inputs[0].detach().clone()
                sites[key] = Site(stage.name, mixer, norm, entered, stage.stride, stage.frame, stage.window)

            stack.callback((mixer if norm is None else norm).register_forward_pre_hook(keep).remove)
        net(x)
    if silent := [stage.name for stage in chosen if stage.name not in sites]:
        raise LookupError(f"the network did not run {silent[0]} on this image, so it has no map there")
    return sites


def _of_own(scans: Sequence[Scan], layout: Layouts, patterns: Iterable[str] | None) -> dict[str, Site]:
    """The scans of any network, in the order in which it ran them, laid out on their maps."""
    if not scans:
        raise LookupError(
            "this network ran no selective scan that can be seen: let it call evssm.selective_scan, not backend "
            "'reference', or mamba-ssm's selective_scan_fn, or give ScanCache `functions` or `adapters`; activation "
            "maps are rows of a selective scan"
        )
    sites = {}
    for number, scan in enumerate(scans):
        found = layout(number, scan.u.shape[1])
        bare = laid_out(scan, number, found)
        place = scan.u[:1].reshape(1, 1, found.h, found.w)
        sites[f"scan.{number}"] = Site(f"scan.{number}", nn.Identity(), None, place, found.stride, bare=bare)
    names = _fitting(list(sites), patterns)
    return {name: sites[name] for name in names}


def _fitting(names: list[str], patterns: Iterable[str] | None) -> list[str]:
    """The names that fit a pattern, all of them without patterns; `LookupError` for one that fits none."""
    wanted = []
    for pattern in ["*"] if patterns is None else patterns:
        fit = [name for name in names if fnmatchcase(name, pattern)]
        if not fit:
            raise LookupError(f"no scan matches {pattern!r}; there are {', '.join(names)}")
        wanted += fit
    return [name for name in names if name in wanted]
