"""Looking into a network while it runs, and changing what a part of it says: context managers, always undone.

Hooks see what a module returns. Nested blocks see each other in the order in which they were entered: a `record`
inside an `edit` sees the edited values. A module that is called again is recorded again, never overwritten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from torch import Tensor, nn

from evssm.geometry import D4
from evssm.models import MODELS
from evssm.models.description import Recipe
from evssm.models.stages import Stage, stages
from evssm.naming import official_keys
from evssm.shapes import Image


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """What one call of one module returned.

    `tensor` is the map as the network stores it, `b c h w` for a stage: `tensor = frame(upright map)`. `stride` is in
    image pixels per feature pixel; `window` is the edge, in feature pixels, of the windows that the module works in,
    or `None` where it sees the whole map. For a module that is no stage, `stride` and `frame` are `None`: not known.
    """

    name: str
    tensor: Tensor
    stride: int | None = None
    frame: D4 | None = None
    window: int | None = None

    @property
    def channels(self) -> int:
        """Channels of a map `b c h w`."""
        return self.tensor.shape[1]

    @property
    def scale(self) -> float | None:
        """Feature pixels per image pixel, 1 / stride."""
        return self.stride and 1 / self.stride

    def upright(self) -> Image:
        """The map `b c h w` as the image lies, contiguous. `ValueError` for a module that is no stage."""
        frame, _ = self._place()
        return frame.inverse(self.tensor).contiguous()

    def cell(self, rc: tuple[int | float, int | float]) -> tuple[int, int]:
        """Where the image pixel (row, column) lies in `tensor`; in `upright()`, both are just divided by the stride.

        Raises `ValueError` for a pixel outside the map and for a module that is no stage.
        """
        frame, stride = self._place()
        h, w = frame.inverse.size(*self.tensor.shape[-2:])
        r, c = (int(x // stride) for x in rc)
        if not (0 <= r < h and 0 <= c < w):
            raise ValueError(f"pixel {rc} is outside {self.name}, which covers {h * stride} x {w * stride} pixels")
        r, c = frame.points((r, c), h, w)
        return r, c

    def _place(self) -> tuple[D4, int]:
        if self.frame is None or self.stride is None:
            raise ValueError(
                f"how the output of {self.name} lies is not known, since it is no stage of its network; "
                "use `.tensor` as it is, or add the module to the network's `stages`"
            )
        return self.frame, self.stride


class Recording(Mapping[str, FeatureMap]):
    """Feature maps by name, in the order in which the network made them.

    The second call of a module is "name#2", the third "name#3"; a tuple's parts are "name[0]", "name[1]".
    """

    def __init__(self) -> None:
        self._maps: dict[str, FeatureMap] = {}

    def __getitem__(self, name: str) -> FeatureMap:
        if name not in self._maps:
            if self._maps:
                raise KeyError(f"nothing is recorded under {name!r}; near it: {_near(name, self._maps)}")
            raise KeyError(
                "nothing is recorded: run the network in the block; if it ran, it uses what the modules chosen hold "
                "without calling them, so record the module around them"
            )
        return self._maps[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._maps)

    def __len__(self) -> int:
        return len(self._maps)

    def _append(self, found: FeatureMap) -> None:
        key, calls = found.name, 1
        while key in self._maps:
            calls += 1
            key = f"{found.name}#{calls}"
        self._maps[key] = found


@contextmanager
def record(net: nn.Module, *patterns: str, grad: bool = False) -> Iterator[Recording]:
    """The outputs of the modules that match, as detached copies, from every run of `net` inside the block.

    A pattern (`*` and `?` as in file names) chooses stages, by our name ("encoder.0.*") or by the official
    repository's ("encoder_level1.block0.attn"); one that fits no stage chooses modules, whose maps then know no
    frame. Without patterns every stage is recorded. With `grad` the recorded tensors stay in the graph: gradients
    reach the input through them, and outputs can be differentiated with respect to them.

    Raises `LookupError`, with the nearest names, for a pattern that matches nothing.
    """
    if patterns:
        names = [name for pattern in patterns for name in matching(net, pattern)]
    else:
        names = [stage.name for stage in stages(net)]
    known = _stages(net)
    recording = Recording()

    def keep(name: str, output: Any) -> Any:
        if isinstance(output, tuple):
            parts = [keep(f"{name}[{i}]", x) if isinstance(x, Tensor) else x for i, x in enumerate(output)]
            return type(output)(*parts) if hasattr(output, "_fields") else tuple(parts)
        if not isinstance(output, Tensor):
            kind = type(output).__name__
            raise ValueError(f"{name} returns a {kind}; only tensors and tuples of them can be recorded")
        kept = output.clone() if grad else output.detach().clone()
        stage = known.get(name)
        place = (stage.stride, stage.frame, stage.window) if stage else ()
        recording._append(FeatureMap(name, kept, *place))
        return kept.clone() if grad else output  # the network goes on with a copy: it may work in place

    with _hooked(net, [(name, partial(keep, name)) for name in dict.fromkeys(names)]):
        yield recording


@contextmanager
def edit(net: nn.Module, changes: Mapping[str, Callable[[Any], Any]]) -> Iterator[None]:
    """While the block runs, the modules that match a key of `changes` return `change(output)`.

    Keys are patterns as in `record`; outputs come as they are stored, not turned upright. Raises `LookupError`, with
    the nearest names, for a key that matches nothing, and `ValueError`, in the run, for a change that returns
    nothing.
    """

    def changed(name: str, change: Callable[[Any], Any], output: Any) -> Any:
        result = change(output)
        if result is None:
            raise ValueError(f"the change given for {name} returned nothing; return the new output")
        return result

    chosen = [(name, change) for pattern, change in changes.items() for name in matching(net, pattern)]
    with _hooked(net, [(name, partial(changed, name, change)) for name, change in chosen]):
        yield


@contextmanager
def _hooked(net: nn.Module, functions: Sequence[tuple[str, Callable[[Any], Any]]]) -> Iterator[None]:
    """While the block runs, the output of each module named passes through its function."""
    with ExitStack() as stack:
        for name, function in functions:
            module = net.get_submodule(name)
            handle = module.register_forward_hook(lambda _m, _x, output, function=function: function(output))
            stack.callback(handle.remove)
        yield


def _stages(net: nn.Module) -> dict[str, Stage]:
    return {stage.name: stage for stage in getattr(net, "stages", ())}


def matching(net: nn.Module, pattern: str) -> list[str]:
    """The names of the stages that a pattern chooses, or else of the modules; `LookupError` where there are none."""
    official = _official_paths(net)
    containers = (nn.ModuleList, nn.ModuleDict)  # never called, so there is nothing to see
    modules = [name for name, module in net.named_modules() if name and not isinstance(module, containers)]
    for names in (list(_stages(net)), modules):
        found = [name for name in names if any(fnmatchcase(p, pattern) for p in (name, *official.get(name, ())))]
        if found:
            return found
    paths = [*_stages(net), *modules, *(path for paths in official.values() for path in paths)]
    near = _near(pattern, paths)
    raise LookupError(f"no stage or module of this {type(net).__name__} matches {pattern!r}; near it: {near}")


def _official_paths(net: nn.Module) -> dict[str, list[str]]:
    """Our module -> the modules of the official network that hold just the same weights; empty if there is none."""
    recipe = getattr(net, "recipe", None)
    naming = MODELS[recipe.name].naming if isinstance(recipe, Recipe) else None
    if naming is None:
        return {}
    held_by_ours: dict[str, set[str]] = {}
    held_by_official: dict[str, set[str]] = {}
    for official, ours in official_keys(net, naming).items():
        for key, held in ((ours, held_by_ours), (official, held_by_official)):
            for dot in (i for i, letter in enumerate(key) if letter == "."):
                held.setdefault(key[:dot], set()).add(ours)
    paths: dict[frozenset[str], list[str]] = {}
    for path, weights in held_by_official.items():
        paths.setdefault(frozenset(weights), []).append(path)
    return {module: paths.get(frozenset(weights), []) for module, weights in held_by_ours.items()}


def _near(name: str, names: Iterable[str]) -> str:
    """Up to three of the names, the nearest first."""
    names = list(dict.fromkeys(names))
    return ", ".join(get_close_matches(name, names, n=3, cutoff=0.3) or names[:3]) or "nothing"
