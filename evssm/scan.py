"""The selective scan of Mamba, by the fastest of several implementations that agree.

A backend is a module with two functions on sequence-major tensors (`b l d` and `b l g n`), `forward` and `backward`.
They are called as two operators of PyTorch, `evssm::scan` and `evssm::scan_backward`, that tracers and counters see as
one step each: shapes follow without running them, FLOPs from a formula.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.utils.flop_counter import register_flop_formula

from evssm.precision import computing_dtype, without_autocast
from evssm.scan_choice import backend_module, chosen
from evssm.scan_choice import scan_backends as scan_backends
from evssm.scan_choice import scanning_with as scanning_with
from evssm.scan_definition import Grouped, selective_scan_definition

OPERATORS = torch.library.Library("evssm", "FRAGMENT")
TENSORS = "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? bias"
OPERATORS.define(f"scan({TENSORS}, bool smooth, bool keep, str backend) -> (Tensor, Tensor)")
OPERATORS.define(
    f"scan_backward(Tensor dy, {TENSORS}, Tensor borders, bool smooth, str backend)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


@torch.library.impl(OPERATORS, "scan", "CompositeExplicitAutograd")
def _scan(u, delta, A, B, C, D, bias, smooth, keep, backend):
    return backend_module(backend).forward(u, delta, A, B, C, D, bias, smooth, keep)


@torch.library.impl(OPERATORS, "scan_backward", "CompositeExplicitAutograd")
def _scan_backward(dy, u, delta, A, B, C, D, bias, borders, smooth, backend):
    return backend_module(backend).backward(dy, u, delta, A, B, C, D, bias, borders, smooth)


@torch.library.register_fake("evssm::scan", lib=OPERATORS)
def _scan_shapes(u, delta, A, B, C, D, bias, smooth, keep, backend):
    borders = backend_module(backend).borders_shape(u, A, B) if keep else (0,)
    return u.new_empty(u.shape), u.new_empty(borders)


@torch.library.register_fake("evssm::scan_backward", lib=OPERATORS)
def _scan_backward_shapes(dy, u, delta, A, B, C, D, bias, borders, smooth, backend):
    shapes = [x.shape for x in (u, delta, A, B, C)] + 2 * [A.shape[:1]]
    return tuple(u.new_empty(shape) for shape in shapes)


@register_flop_formula(torch.ops.evssm.scan)
def _scan_flops(u, delta, A, *_, out_shape=None, **__) -> int:
    """9 b l d n + b l d, the count that Mamba's community agreed on; a multiplication and an addition are two."""
    entries, steps, channels = u
    return entries * steps * channels * (9 * A[1] + 1)


@register_flop_formula(torch.ops.evssm.scan_backward)
def _scan_backward_flops(dy, u, delta, A, *_, out_shape=None, **__) -> int:
    """The recurrence once more, and twice as much again for its reverse: no count of the community's."""
    return 3 * _scan_flops(u, delta, A)


SCAN, SCAN_BACKWARD = torch.ops.evssm.scan.default, torch.ops.evssm.scan_backward.default


class _Scan(Function):
    """The two operators as one differentiable function of tensors whose last axis is the sequence."""

    @staticmethod
    def forward(backend, smooth, *inputs):
        y, borders = SCAN(*_sequence_major(*inputs), smooth, True, backend)
        return y.mT.to(inputs[0].dtype), borders

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.backend, ctx.smooth, *tensors = inputs
        ctx.save_for_backward(*tensors, output[1])
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, dy, _):
        *inputs, borders = ctx.saved_tensors
        if dy is None:
            return (None,) * (2 + len(inputs))
        if torch.is_grad_enabled():
            return None, None, *_gradients_of_definition(dy, ctx.smooth, *inputs)
        tensors = _sequence_major(*inputs)
        wanted = dy.mT.to(tensors[0].dtype)
        gradients = SCAN_BACKWARD(wanted, *tensors, borders, ctx.smooth, ctx.backend)
        return None, None, *_sequence_last(gradients, inputs)


def _sequence_major(u, delta, A, B, C, D, bias):
    """The inputs as operators want them: the sequence before the channels, an axis of groups, all of one dtype."""
    dtype = computing_dtype(u, delta, A, B, C, D, bias)
    B, C = ((x if x.ndim == 4 else x.unsqueeze(1)).permute(0, 3, 1, 2) for x in (B, C))  # b g n l -> b l g n
    return [x if x is None else x.to(dtype) for x in (u.mT, delta.mT, A, B, C, D, bias)]


def _sequence_last(gradients, inputs):
    """The gradients in the shapes and dtypes of the inputs; None for an input that is absent."""
    du, ddelta, dA, dB, dC, dD, dbias = gradients
    dB, dC = (x.permute(0, 2, 3, 1) if inputs[3].ndim == 4 else x.squeeze(2).mT for x in (dB, dC))
    moved = zip((du.mT, ddelta.mT, dA, dB, dC, dD, dbias), inputs, strict=True)
    return [None if x is None else gradient.to(x.dtype) for gradient, x in moved]


def _gradients_of_definition(dy, smooth, *inputs):
    """The same gradients, differentiable once more: the fast backward passes are not, the definition's is."""
    u, delta, A, B, C, D, bias = inputs
    y = selective_scan_definition(u, delta, A, B, C, D, delta_bias=bias, delta_softplus=smooth)
    given = [x for x in inputs if x is not None and x.requires_grad]
    gradients = iter(torch.autograd.grad(y, given, dy, create_graph=True, allow_unused=True))
    return [next(gradients) if x is not None and x.requires_grad else None for x in inputs]


def selective_scan(
    u: Float[Tensor, "b d l"],
    delta: Float[Tensor, "b d l"],
    A: Float[Tensor, "d n"],
    B: Grouped,
    C: Grouped,
    D: Float[Tensor, " d"] | None = None,
    *,
    delta_bias: Float[Tensor, " d"] | None = None,
    delta_softplus: bool = False,
    backend: str = "auto",
) -> Float[Tensor, "b d l"]:
    """The output y of a selective state space run over the l steps of u, from h = 0 (Gu & Dao 2023, Algorithm 2).

        h[t] = exp(delta[t] A) h[t-1] + delta[t] B[t] u[t]
        y[t] = C[t] . h[t] + D u[t]

    with softplus(delta + delta_bias) in place of delta where asked. B and C are the same for all channels, or
    `b g n l`: then each of g groups of neighbouring channels has its own. Computed in at least float32; y has the dtype
    of u and the strides of `b l d` memory. Inputs with those strides, as channels-last maps have them, are not copied.

    Differentiable in every tensor; only states at chunk borders are kept for that. A second derivative goes through the
    plain loop, whose memory grows with b d l n.

    `backend` is "numba" (CPU), "torch" (any device), "triton" (CUDA; not yet run on a GPU), "mamba_ssm" (CUDA, by the
    kernel of that package, float32), "reference" (the plain loop), or "auto": what `scanning_with` says, else numba on
    the CPU where it is installed, torch otherwise. Raises ValueError for a backend that is unknown, not available or
    not made for u, and for shapes that do not fit together.
    """
    inputs = (u, delta, A, B, C, D, delta_bias)
    _check(*inputs)
    backend = chosen(backend, u)
    if backend == "mamba_ssm":
        return backend_module(backend).scan(*inputs, delta_softplus)
    if backend == "reference":
        with without_autocast(u):
            return selective_scan_definition(u, delta, A, B, C, D, delta_bias=delta_bias, delta_softplus=delta_softplus)
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs):
        return _Scan.apply(backend, delta_softplus, *inputs)[0]
    return SCAN(*_sequence_major(*inputs), delta_softplus, False, backend)[0].mT.to(u.dtype)


def _check(u, delta, A, B, C, D, bias) -> None:
    """ValueError unless the shapes fit together."""
    if u.ndim != 3:
        raise ValueError(f"u has shape {tuple(u.shape)}, expected (b, d, l)")
    b, d, l = u.shape
    if A.ndim != 2 or len(A) != d:
        raise ValueError(f"A has shape {tuple(A.shape)}, expected (d, n) with d = {d} as in u")
    n = A.shape[1]
    grouped = B.ndim == 4 and B.shape[1] > 0 and d % B.shape[1] == 0
    rows = (b, B.shape[1], n, l) if grouped else (b, n, l)
    for name, x, expected in (
        ("delta", delta, (b, d, l)), ("B", B, rows), ("C", C, rows), ("D", D, (d,)), ("delta_bias", bias, (d,)),
    ):  # fmt: skip
        if x is not None and x.shape != expected:
            hint = f", or (b, g, n, l) with g a divisor of d = {d}" if name == "B" else ""
            raise ValueError(f"{name} has shape {tuple(x.shape)}, expected {expected}{hint}")
        if x is not None and x.device != u.device:
            raise ValueError(f"{name} is on {x.device}, and u on {u.device}; move them to one device")
