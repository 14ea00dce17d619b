"""Where a result comes from: hashes of images and weights, and what a network says about itself."""

import json
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from typing import Any

from torch import Tensor, nn

from evssm.provenance import sha256_of


def image_sha256(image: Tensor) -> str:
    """Digest over type, shape and values of one image."""
    return sha256_of({"image": image})


def network_stamp(net: Callable[..., Any]) -> dict[str, Any]:
    """What can be said about `net`, in JSON values.

    "network" is its name, "weights" a digest of its state dict, or "as given" for a callable without one.
    "trained" is what its attribute `provenance` says; false where that is `None` (built, nothing loaded)
    and `None` where nobody knows: there is no such attribute, or the weights are no longer those it was
    written about. "provenance" are all its fields, "overrides" the arguments it was built with, `local`
    among them, and "windows" the edges in feature px that its stages work in.
    """
    own = _fields(getattr(net, "provenance", None))
    recipe = _fields(getattr(net, "recipe", None))
    state = net.state_dict() if isinstance(net, nn.Module) else {}
    weights = sha256_of({key: value for key, value in state.items() if isinstance(value, Tensor)})
    trained = own.get("trained", getattr(getattr(net, "provenance", None), "trained", None))
    if hasattr(net, "provenance") and not own:
        trained = False
    if own.get("tensors_sha256") not in (None, weights):
        trained = None
    return {
        "network": own.get("model") or recipe.get("name") or getattr(net, "__qualname__", type(net).__name__),
        "weights": weights if state else "as given",
        "trained": trained,
        "provenance": own,
        "overrides": recipe.get("overrides", {}),
        "windows": _windows(net),
    }


def _windows(net: Callable[..., Any]) -> list[int]:
    """The window edges that occur in the network's stages, largest first."""
    edges = [getattr(stage, "window", None) for stage in getattr(net, "stages", None) or ()]
    return sorted({int(edge) for edge in edges if edge is not None}, reverse=True)


def _fields(record: Any) -> dict[str, Any]:
    """The fields of a record as JSON values, whatever kind of record it is; empty for `None`."""
    if record is None:
        return {}
    if hasattr(record, "as_dict"):
        fields = record.as_dict()
    elif is_dataclass(record) and not isinstance(record, type):
        fields = asdict(record)
    else:
        fields = dict(record) if isinstance(record, dict) else vars(record)
    return dict(json.loads(json.dumps(fields, default=str)))
