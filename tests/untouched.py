"""What a caller would miss of a network that somebody else has used."""

from contextlib import contextmanager

import torch


@contextmanager
def untouched(net):
    """Fails unless hooks, modes, wanted and held gradients, weights, stages and torch's states are as before."""
    before = _state(net)
    try:
        yield
    finally:
        after = _state(net)
        for name, value in before.items():
            assert _same(value, after[name]), f"{name} changed"


def _state(net):
    modules = list(net.modules())
    parameters = list(net.parameters())
    return {
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in modules],
        "modes": [m.training for m in modules],
        "attributes": [
            (type(m), sorted(vars(m)), getattr(m, "window", None), getattr(m, "directions", None)) for m in modules
        ],
        "stages": getattr(net, "stages", None),
        "identity of parameters": [id(p) for p in parameters],
        "wanted gradients": [p.requires_grad for p in parameters],
        "held gradients": [None if p.grad is None else p.grad.clone() for p in parameters],
        "weights": [p.detach().clone() for p in parameters],
        "random state": [torch.random.get_rng_state()],
        "gradient mode": torch.is_grad_enabled(),
    }


def _same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, list):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return a == b
