"""Weights in and out: the official repositories' checkpoints, our own files and the bundled networks.

Nothing in a file is ever executed, and nothing is loaded in part: a checkpoint fits key for key or is refused.
"""

from __future__ import annotations

import json
import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from functools import reduce
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialised
from torch import Tensor, nn

from evssm.arrays import packed_names, read_arrays
from evssm.models import MODELS, build
from evssm.models.description import Recipe, Shapes
from evssm.naming import entries_read, official_keys
from evssm.provenance import (
    Provenance,
    existing_file,
    file_sha256,
    kind_of_content,
    sha256_of,
    written_whole,
)

WRAPPERS = ("params_ema", "params", "state_dict", "model_state", "model")
"""Entries under which training code keeps weights; the first one present is taken, a running average before the
rest."""

PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every key."""

_DEEPEST = 16
"""Wrappers and prefixes that come off, one after the other; a dict may hold itself."""

_METADATA = "evssm"
_FORMAT = 1
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_NUMPY_SCALAR = np.float64(0).__reduce__()[0]
_HARMLESS: list[Any] = [  # best scores are often saved as NumPy scalars, under either of NumPy's module names
    (_NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    (_NUMPY_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *{type(np.dtype(kind)) for kind in "?bBhHiIlLefd"},
]


def from_official(name: str, state_dict_or_path: Mapping[str, Any] | str | Path, **overrides: Any) -> nn.Module:
    """The network `name` with the weights of an official state dict, or of a file of one.

    A file is what `torch.save` wrote (.pth, .pt, .pkl), safetensors, or an .npz of the variables of a network that was
    published for TensorFlow or Keras (see `evssm.arrays`). The weights may lie under one of `WRAPPERS` and have one of
    `PREFIXES`. Width, depths and whatever else the shapes determine are read from them; `overrides` win. The network
    takes the widest floating-point type in the state dict. Its `.provenance` says "official release", on the caller's
    word, except where every constant of a fresh network is still in place: such weights are untrained.

    Raises `FileNotFoundError` or `ValueError`, in one line, for a file that is missing or is no checkpoint, for
    missing, unexpected and misshapen keys (grouped, three examples each, with the network that the keys do fit), for
    entries that are no tensors and for values that are not finite.
    """
    if isinstance(state_dict_or_path, Mapping):
        file, what, entries = None, "the state dict", state_dict_or_path
    elif not isinstance(state_dict_or_path, (str, Path)):
        raise ValueError(f"give a state dict or the path of one, not a {type(state_dict_or_path).__name__}")
    else:
        file = existing_file(state_dict_or_path, "a checkpoint")
        what, (entries, metadata) = str(file), _read(file)
        if _METADATA in metadata:
            raise ValueError(
                f"{file} is a file of this package, not an official checkpoint; load({str(file)!r}) reads it"
            )
    found = _tensors(_unwrapped(entries), what)
    naming = MODELS[name].naming if name in MODELS else None
    state = entries_read(found, naming) if naming else found
    arguments, expected = _skeleton(name, state, overrides)
    if naming is None:
        raise ValueError(
            f"{name} has no official counterpart whose checkpoints it could read; load reads our own files"
        )
    keys = official_keys(expected, naming)
    ours = expected.state_dict()
    if differences := _differences({key: ours[mine] for key, mine in keys.items()}, state):
        fits = _fitting(_shapes(found))
        hint = f"these are the keys of {fits}" if fits else "no network here has just these keys and shapes"
        hint = f"without {', '.join(overrides)} it would" if fits == name and overrides else hint
        raise ValueError(f"{what} does not fit {name}: {differences}; {hint}")
    _demand_finite(state, what)
    net: Any = build(name, **arguments)
    weights = {mine: state[key] for key, mine in keys.items()}
    untrained = _as_initialised(net, weights)
    _fill(net, weights)
    tensors = sha256_of(net.state_dict())
    digest = file_sha256(file) if file else tensors
    net.provenance = Provenance(
        model=name,
        weights="untrained" if untrained else "official release",
        sha256=digest,
        tensors_sha256=tensors,
        file=file.name if file else None,
        note=f"read from {file.name if file else 'memory'} (sha256 {digest}) under the official keys; "
        "that these are the released weights is the caller's word",
    )
    return net


def to_official(net: nn.Module) -> dict[str, Tensor]:
    """The weights under the official repository's keys, in its order; detached, sharing memory with `net`.

    The inverse of `from_official`, bit for bit. Raises `ValueError` for a network that no official repository has.
    """
    recipe = _recipe(net)
    naming = MODELS[recipe.name].naming
    if naming is None:
        raise ValueError(f"{recipe.name} has no official counterpart, so no official keys; save(net, path) keeps it")
    state = net.state_dict()
    return {official: state[ours].detach() for official, ours in official_keys(net, naming).items()}


def save(net: nn.Module, path: str | Path, *, packed: bool = False, **provenance: Any) -> Path:
    """The path, once a safetensors file there holds the weights, how `net` was built and their provenance.

    With `packed` the weights are rounded to half precision, which halves the file; they are read back as what they
    were, and it is the rounded ones that the provenance describes.

    `provenance` are fields of `Provenance` (data, steps, seed, hardware, commit, note, weights). Given `steps`, the
    weights count as trained; given nothing, the file takes over `net.provenance`, or says "untrained". The file
    appears whole or not at all.

    Raises `ValueError` for a network that `build` did not make or whose arguments are no plain values, for weights
    that are not finite (in half precision, where they are packed), and where `net.provenance` would be taken over but
    the weights have changed since it was written.
    """
    recipe = _recipe(net)
    state = {key: value.detach().cpu().contiguous().clone() for key, value in net.state_dict().items()}
    stored = _cast(state, torch.float16) if packed else state
    _demand_finite(stored, f"the {recipe.name} to be saved")
    state = {key: stored[key].to(value.dtype) for key, value in state.items()}
    origin = _origin(net, recipe, provenance, sha256_of(state))
    description = {
        "format": _FORMAT,
        "name": recipe.name,
        "overrides": {key: _plain(value, key) for key, value in recipe.overrides.items()},
        "provenance": origin.as_dict(),
        **({"packed": str(_widest(state))} if packed else {}),
    }
    content = serialised(stored, metadata={_METADATA: json.dumps(description, allow_nan=False)})
    with written_whole(path) as part:
        part.write_bytes(content)
    return Path(path)


def load(source: str | Path, *, name: str | None = None, **overrides: Any) -> nn.Module:
    """The trained network in a file, or the bundled one of that name ("evssm-compact"), with `.provenance`.

    A file that `save` wrote says itself what it holds; for an official checkpoint, `name` says of which network.
    `overrides` replace arguments that leave the weights alone, such as `local`.

    Raises `FileNotFoundError` or `ValueError`, in one line, for a missing or damaged file, an unknown name (with
    those there are), and weights that do not fit key for key.
    """
    path = bundled().get(str(source)) or _file_or_refuse(source)
    entries, metadata = _read(path)
    if _METADATA not in metadata:
        if name is not None:
            return from_official(name, path, **overrides)
        fits = _fitting(_shapes(_tensors(_unwrapped(entries), str(path))))
        guess = f"load(path, name={fits!r}), whose keys these are" if fits else "load(path, name=...)"
        raise ValueError(
            f"{path} does not say which network it is for; if it is an official checkpoint, say so: {guess}"
        )
    recipe, origin, packed = _described(path, metadata[_METADATA])
    if name not in (None, recipe.name):
        raise ValueError(f"{path} holds {recipe.name}, not {name}; leave `name` out, or give the file of {name}")
    arguments = {**recipe.overrides, **overrides}
    state = _tensors(entries, str(path))
    state = _cast(state, packed) if packed else state
    if differences := _differences(_laid_out(path, recipe, arguments), state):
        raise ValueError(f"{path} does not fit the {recipe.name} that it describes: {differences}; get it again")
    _demand_finite(state, str(path))
    if sha256_of(state) != origin.tensors_sha256:
        raise ValueError(f"{path} is damaged: its weights are not those that were saved; copy or download it again")
    net: Any = build(recipe.name, **arguments)
    _fill(net, state)
    net.provenance = replace(origin, file=path.name, sha256=file_sha256(path))
    return net


def bundled() -> dict[str, Path]:
    """Name -> file of the trained networks that come with the package."""
    folder = Path(str(resources.files("evssm"))) / "trained"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


# --- files


def _file_or_refuse(source: str | Path) -> Path:
    """The file `source`; where that is a bare name, the message is about bundled networks."""
    path = Path(source)
    if path.is_file() or isinstance(source, Path) or path.suffix or len(path.parts) != 1:
        return existing_file(path, "a file of weights")
    known = list(bundled())
    near = get_close_matches(str(source), known, n=3, cutoff=0.4)
    there_are = f"near it: {', '.join(near)}" if near else f"bundled: {', '.join(known) or 'none yet'}"
    known_model = f"; build({source!r}) makes it untrained" if source in MODELS else ""
    raise ValueError(f"no file and no bundled network is called {source!r}; {there_are}{known_model}")


def _read(path: Path) -> tuple[Any, dict[str, str]]:
    """What the file holds, unchecked, and the metadata of safetensors; `ValueError` for other files."""
    with path.open("rb") as file:
        head = file.read(512)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000:
        return _read_safetensors(path)
    if head.startswith(b"PK\x03\x04"):
        names = packed_names(path)
        if names and all(name.endswith(".npy") for name in names):
            return read_arrays(path), {}
        _demand_torch_archive(path, names)
    elif not head.startswith(b"\x80"):
        raise ValueError(f"{path} is no checkpoint but {kind_of_content(head)}; give a .pth or .safetensors file")
    return _read_torch(path), {}


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"{path} is a safetensors file cut short or damaged ({error}); copy or download it again"
        ) from None


def _demand_torch_archive(path: Path, names: list[str]) -> None:
    """`ValueError` unless a zip archive of these names is one that `torch.save` wrote."""
    if any(name.endswith("/constants.pkl") for name in names):
        raise ValueError(f"{path} is a TorchScript program, not a checkpoint; give the state dict it was made from")
    if not any(name.endswith("/data.pkl") for name in names):
        raise ValueError(
            f"{path} is a zip archive of {_examples(names) or 'nothing'}, not a checkpoint; unpack it first"
        )


def _read_torch(path: Path) -> Any:
    """What `torch.save` wrote, if plain containers of tensors; all ways to be malformed are told alike."""
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_HARMLESS):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code:
            raise ValueError(
                f"{path} holds more than weights: reading it would run {code[1]}, which was not done; "
                "where you trust the file, save its state dict alone with torch.save"
            ) from None
        raise ValueError(
            f"{path} is a pickle but no checkpoint of torch.save; save a state dict with torch.save"
        ) from None
    except Exception as error:
        cause = str(error).split("\n")[0][:80] or type(error).__name__
        raise ValueError(f"{path} is a checkpoint cut short or damaged ({cause}); copy or download it again") from None


def _described(path: Path, text: str) -> tuple[Recipe, Provenance, torch.dtype | None]:
    """What one of our files says about itself, and which type its weights were packed from, if any."""
    try:
        description = json.loads(text)
        if description["format"] != _FORMAT:
            raise ValueError(f"file format {description['format']}, where this version reads {_FORMAT}")
        if not isinstance(description["name"], str):
            raise ValueError(f"the network is called {description['name']!r}")
        overrides = {key: _tuples(value) for key, value in description["overrides"].items()}
        packed = {str(kind): kind for kind in _FLOATS}[description["packed"]] if "packed" in description else None
        return Recipe(description["name"], overrides), Provenance.from_dict(description["provenance"]), packed
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path} has a description that cannot be read ({reason}); update evssm or get it again"
        ) from None


def _laid_out(path: Path, recipe: Recipe, arguments: dict[str, Any]) -> dict[str, Tensor]:
    """The weights that a described network has, without memory; a damaged description may ask for any amount."""
    try:
        with torch.device("meta"):
            return build(recipe.name, **arguments).state_dict()
    except Exception as error:
        if recipe.name not in MODELS:
            raise ValueError(f"{path} describes a network that this version does not know: {error}") from None
        if arguments != recipe.overrides:
            raise  # about what the caller asks for
        cause = str(error).split("\n")[0]
        raise ValueError(
            f"{path} describes a {recipe.name} that cannot be built ({cause}); update evssm or get it again"
        ) from None


# --- from entries to weights


def _unwrapped(entries: Any) -> Any:
    """The state dict inside a training checkpoint, its keys without `PREFIXES`."""
    for _ in range(_DEEPEST):
        if not isinstance(entries, Mapping) or not entries:
            break
        wrapped = [entries[key] for key in WRAPPERS if isinstance(entries.get(key), Mapping)]
        prefixes = [prefix for prefix in PREFIXES if all(str(key).startswith(prefix) for key in entries)]
        if wrapped:
            entries = wrapped[0]
        elif prefixes:
            entries = {key.removeprefix(prefixes[0]): value for key, value in entries.items()}
        else:
            break
    return entries


def _tensors(entries: Any, what: str) -> dict[str, Tensor]:
    """The entries, once they are sure to be dense tensors under names, none larger than the memory that it lies in."""
    if not isinstance(entries, Mapping) or not entries:
        found = "an empty dict" if isinstance(entries, Mapping) else f"a {type(entries).__name__}"
        raise ValueError(
            f"{what} holds {found}, where a state dict (name -> tensor) was asked for; save net.state_dict()"
        )
    strange = [
        f"{key} ({type(value).__name__})"
        for key, value in entries.items()
        if not (isinstance(key, str) and isinstance(value, Tensor) and value.layout == torch.strided) or value.is_meta
    ]
    if strange:
        raise ValueError(
            f"{what} has {len(strange)} entries that are no tensors with values: {_examples(strange)}; "
            "if the weights lie in one of them, give that one"
        )
    state = {key: value.detach() for key, value in entries.items()}
    if repeated := [key for key, value in state.items() if value.nbytes > value.untyped_storage().nbytes()]:
        raise ValueError(
            f"{what} has {len(repeated)} entries that repeat the same memory, and may stand for any amount of it: "
            f"{_examples(repeated)}; save them with .contiguous()"
        )
    return state


def _demand_finite(state: Mapping[str, Tensor], what: str) -> None:
    bad = {key: int((~torch.isfinite(value)).sum()) for key, value in state.items()}
    bad = {key: count for key, count in bad.items() if count}
    if bad:
        places = _examples(f"{key} ({count} of {state[key].numel()})" for key, count in bad.items())
        raise ValueError(f"{what} has NaN or infinite values in {places}; training diverged or the file is damaged")


def _skeleton(name: str, state: Mapping[str, Tensor], overrides: dict[str, Any]) -> tuple[dict[str, Any], nn.Module]:
    """The arguments for `build` that the weights ask for, and the network without memory that they make.

    Weights of some other network can lead anywhere; where that is nowhere, the overrides alone count, so that the
    caller can be told what is missing.
    """
    if name in MODELS:
        try:
            arguments = {**MODELS[name].infer(_shapes(state)), **overrides}
            with torch.device("meta"):
                return arguments, build(name, **arguments)
        except Exception:  # nothing is known about the shapes yet
            pass
    with torch.device("meta"):
        return overrides, build(name, **overrides)


def _differences(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """All differences in keys, shapes and types, grouped, three examples each; empty if there is none."""
    both = [key for key in expected if key in found]
    groups = {
        "missing": [key for key in expected if key not in found],
        "unexpected": [key for key in found if key not in expected],
        "misshapen": [
            f"{key} is {_size(found[key])} instead of {_size(expected[key])}"
            for key in both
            if found[key].shape != expected[key].shape
        ],
        "of a type that weights cannot have": [
            f"{key} is {found[key].dtype}"
            for key in both
            if expected[key].is_floating_point() and found[key].dtype not in _FLOATS
        ],
    }
    return "; ".join(f"{len(keys)} {label}: {_examples(keys)}" for label, keys in groups.items() if keys)


def _fitting(shapes: Shapes) -> str | None:
    """The first network in `MODELS` whose official keys and shapes are just these."""
    tried = set()
    for name, model in MODELS.items():
        if model.naming is None or (model.network, model.naming) in tried:
            continue
        tried.add((model.network, model.naming))
        try:
            read = entries_read(shapes, model.naming)
            with torch.device("meta"):
                net = build(name, **model.infer(read))
            state = net.state_dict()
            if {key: tuple(state[mine].shape) for key, mine in official_keys(net, model.naming).items()} == read:
                return name
        except Exception:  # the weights of one network can break the making of another in any way
            continue
    return None


def _fill(net: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Gives `net` the weights and the widest floating-point type among them, ready for use."""
    net.to(_widest(state))
    net.load_state_dict(state)
    net.eval()


def _cast(state: Mapping[str, Tensor], kind: torch.dtype) -> dict[str, Tensor]:
    return {key: value.to(kind) if value.is_floating_point() else value for key, value in state.items()}


def _widest(state: Mapping[str, Tensor]) -> torch.dtype:
    return reduce(torch.promote_types, (value.dtype for value in state.values() if value.is_floating_point()))


def _as_initialised(fresh: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Whether all that starts out constant (gains of 1, offsets of 0) still is: no training leaves it so."""
    constant = {k: v for k, v in fresh.state_dict().items() if v.numel() > 1 and bool((v == v.flatten()[0]).all())}
    return bool(constant) and all(torch.equal(state[k].to(v.device, v.dtype), v) for k, v in constant.items())


# --- what files say


def _recipe(net: nn.Module) -> Recipe:
    recipe = getattr(net, "recipe", None)
    if not isinstance(recipe, Recipe):
        raise ValueError(f"this {type(net).__name__} was not made by evssm.build, which notes how; build it by name")
    return recipe


def _origin(net: nn.Module, recipe: Recipe, given: dict[str, Any], digest: str) -> Provenance:
    """The provenance to be saved, from what the caller gives or else from what `net` carries."""
    own = {"model": recipe.name, "sha256": digest, "tensors_sha256": digest, "file": None}
    if clash := sorted(own.keys() & given.keys()):
        raise ValueError(f"{', '.join(clash)} follow from the network; leave them out")
    known = getattr(net, "provenance", None)
    if known is not None and not given:
        if known.tensors_sha256 != digest:
            raise ValueError(
                f"the weights of this {recipe.name} have changed since its provenance was written; "
                "say what they are: save(net, path, weights='trained', data=..., steps=...)"
            )
        given = known.as_dict()
    given = {"weights": "trained" if given.get("steps") else "untrained", **given}
    return Provenance.from_dict({**given, **own})


def _plain(value: Any, argument: str) -> Any:
    """`value` as JSON keeps it."""
    if isinstance(value, (list, tuple)):
        return [_plain(item, argument) for item in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise ValueError(
        f"cannot save a network built with {argument}={value!r}: a file keeps numbers, words and tuples "
        "of them; use a variant that has a name"
    )


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that they were."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _shapes(state: Mapping[str, Tensor]) -> Shapes:
    return {key: tuple(value.shape) for key, value in state.items()}


def _size(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "a single number"


def _examples(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
