"""What each operator of PyTorch costs: a counter that sees every one of them while a network runs.

One multiplication or one addition is one operation, so that a multiply-add is two. Element-wise functions, norms,
softmax, pooling and resizing have no count, as in the tools of the field; operators that are neither known to be of
that sort nor have a formula are listed. Work that bypasses PyTorch's operators (numpy, extension modules of the older
kind) is invisible here.
"""

from collections import Counter
from collections.abc import Callable
from math import log2, prod
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

import evssm.enlarge
import evssm.fused
import evssm.scan_selected
import evssm.ssd  # noqa: F401  (the operators exist once their files are imported)

CONVOLUTION, DEPTHWISE, LINEAR = "convolution", "depth-wise convolution", "linear and 1 x 1"
SCAN, FFT, ATTENTION, OTHER = "scan", "FFT", "attention products", "registered formulas"
KINDS = (CONVOLUTION, DEPTHWISE, LINEAR, SCAN, FFT, ATTENTION, OTHER)

EXACT_SCAN, NORMED, RESIZED = "scan, element by element", "numbers in layer norms", "numbers resized bilinearly"

ATEN, OURS = torch.ops.aten, torch.ops.evssm
Counts = dict[str, int]

# Shapes, copies and places.
_PLACES = """
_unsafe_view view _reshape_alias t transpose permute expand slice select split split_with_sizes unbind cat stack
clone copy _to_copy alias detach lift_fresh squeeze unsqueeze as_strided diagonal constant_pad_nd reflection_pad1d
reflection_pad2d replication_pad1d replication_pad2d roll flip rot90 repeat index index_select index_put gather
scatter scatter_add embedding pixel_shuffle pixel_unshuffle channel_shuffle im2col col2im unfold tril triu
masked_fill promote_types result_type view_as_real view_as_complex _conj conj_physical resolve_conj
_local_scalar_dense select_scatter slice_scatter set resize repeat_interleave nonzero masked_select tril_indices
triu_indices
"""
# New tensors.
_NEW = """
empty empty_like empty_strided new_empty new_empty_strided new_zeros new_ones new_full zeros zeros_like ones
ones_like full full_like arange linspace eye scalar_tensor rand randn rand_like randn_like randint randperm fill
zero uniform normal bernoulli
"""
# Element by element, over neighbours or over an axis: without a count by convention.
_BY_CONVENTION = """
upsample_nearest1d upsample_nearest2d upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa
_upsample_bicubic2d_aa upsample_linear1d grid_sampler_2d avg_pool1d avg_pool2d max_pool2d max_pool2d_with_indices
_adaptive_avg_pool2d adaptive_max_pool2d native_layer_norm native_group_norm native_batch_norm
_native_batch_norm_legit _native_batch_norm_legit_no_training _batch_norm_with_update cudnn_batch_norm
batch_norm_inference _softmax _safe_softmax _log_softmax mean sum prod var var_mean std std_mean amax amin max min
argmax argmin any all norm linalg_vector_norm logsumexp cumsum cumprod sort argsort topk native_dropout dropout
aminmax median where allclose equal glu prelu _prelu_kernel
"""
UNCOUNTED = frozenset((_PLACES + _NEW + _BY_CONVENTION).split())
"""Operators of PyTorch that cost nothing by convention, besides those that it marks as element by element itself."""


def _multiply_adds(count: int, out: Tensor) -> int:
    """Operations of `count` multiply-adds; a product of complex numbers takes four."""
    return 2 * count * (4 if out.is_complex() else 1)


def _convolution(args: tuple[Any, ...], out: Tensor) -> Counts:
    x, weight, transposed, groups = args[0], args[1], args[6], args[8]
    places = x if transposed else out
    kernel = prod(weight.shape[2:])
    whole = LINEAR if kernel == groups == 1 else CONVOLUTION
    kind = DEPTHWISE if 1 < groups == x.shape[1] else whole
    return {kind: _multiply_adds(places.numel() * weight.shape[1] * kernel, out)}


def _depthwise(args: tuple[Any, ...], _: Tensor) -> Counts:
    """The convolution in the middle, and the products with matrices before and after it."""
    x, projection, weight, _bias, _then, output = args
    pixels, matrices = prod(x.shape[:3]), sum(matrix.numel() for matrix in (projection, output) if matrix is not None)
    return {DEPTHWISE: 2 * pixels * weight.numel(), LINEAR: 2 * pixels * matrices}


def _transform(args: tuple[Any, ...], out: Tensor) -> Counts:
    """5 n log2 n for a complex transform of n numbers, half of that where one side of it is real."""
    x, axes = args[0], args[1]
    real_side = next((side for side in (x, out) if not side.is_complex()), None)
    whole = x if real_side is None else real_side
    n = prod(whole.shape[axis] for axis in axes)
    return {FFT: round((5 if real_side is None else 2.5) * whole.numel() * log2(n)) if n else 0}


def _scan(args: tuple[Any, ...], out: Any) -> Counts:
    """The community's 9 b l d n + b l d; and for each step and channel, to the last operation, 4 n + 1 products,
    2 n - 1 sums and n exponentials, with 2 for D, 1 for the bias and 3 for a softplus."""
    u, _, A, _, _, D, bias, smooth = args[:8]
    each = 7 * A.shape[1] + 2 * (D is not None) + (bias is not None) + 3 * bool(smooth)
    return {SCAN: _registered(OURS.scan, args, {}, out), EXACT_SCAN: u.numel() * each}


def _scan_steps(args: tuple[Any, ...], out: Any) -> Counts:
    """A scan with D, a bias and a softplus, and the products that its step sizes are."""
    u, t, steps, A, _BC, D, bias, _keep = args
    return {**_scan((u, t, A, None, None, D, bias, True), out), LINEAR: 2 * u.numel() * steps.shape[1]}


def _select(args: tuple[Any, ...], _: Any) -> Counts:
    """The product with a matrix, and the convolution of what it gives."""
    u, projection, weight = args[:3]
    pixels = prod(u.shape[:2])
    return {LINEAR: 2 * pixels * projection.numel(), DEPTHWISE: 2 * pixels * weight.numel()}


def _state_space_dual(args: tuple[Any, ...], out: Any) -> Counts:
    """The matrix products over chunks that are computed; and the recurrence, to the last operation: for each step and
    channel 3 n products and 2 n - 1 sums, for each head an exponential."""
    X, a, B = args[:3]
    exact = X.numel() * (5 * B.shape[-1] - 1) + a.numel()
    return {SCAN: _registered(OURS.ssd, args, {}, out), EXACT_SCAN: exact}


def _attention(args: tuple[Any, ...], out: Any) -> Counts:
    """Both products, q with k and the weights with v, masked or not."""
    q, k, v = args[:3]
    return {ATTENTION: 2 * q.shape[:-1].numel() * k.shape[-2] * (q.shape[-1] + v.shape[-1])}


def _norm(args: tuple[Any, ...], out: Any) -> Counts:
    """The norm, and the products with matrices that make its gate and follow it."""
    x, _gate, projection, _weight, _bias, _eps, centred, output = args
    pixels, matrices = prod(x.shape[:-1]), sum(matrix.numel() for matrix in (projection, output) if matrix is not None)
    return {NORMED: x.numel() if centred else 0, LINEAR: 2 * pixels * matrices}


def _enlarged(args: tuple[Any, ...], out: Any) -> Counts:
    """The convolution of the large map, and the numbers of that map, which are resized first."""
    return {CONVOLUTION: _registered(OURS.enlarge, args, {}, out), RESIZED: 4 * args[0].numel()}


FORMULAS: dict[Any, Callable[[tuple[Any, ...], Any], Counts]] = {
    ATEN.convolution: _convolution,
    ATEN._fft_r2c: _transform,
    ATEN._fft_c2r: _transform,
    ATEN._fft_c2c: _transform,
    ATEN.native_layer_norm: lambda args, out: {NORMED: args[0].numel()},
    ATEN.upsample_bilinear2d: lambda args, out: {RESIZED: out.numel()},
    OURS.linear: lambda args, out: {LINEAR: 2 * out.numel() * args[0].shape[-1]},
    OURS.depthwise: _depthwise,
    OURS.norm: _norm,
    OURS.enlarge: _enlarged,
    OURS.filter_patches: lambda args, out: {FFT: _registered(OURS.filter_patches, args, {}, out)},
    OURS.scan: _scan,
    OURS.scan_steps: _scan_steps,
    OURS.select: _select,
    OURS.ssd: _state_space_dual,
}

PRODUCTS: dict[Any, Callable[..., int]] = {  # operator -> multiply-adds of its two factors
    ATEN.mm: lambda x, y: x.numel() * y.shape[-1],
    ATEN.bmm: lambda x, y: x.numel() * y.shape[-1],
    ATEN.mv: lambda x, y: x.numel(),
    ATEN.dot: lambda x, y: x.numel(),
    ATEN.vdot: lambda x, y: x.numel(),
    ATEN.addmm: lambda _, x, y: x.numel() * y.shape[-1],
    ATEN.baddbmm: lambda _, x, y: x.numel() * y.shape[-1],
    ATEN.addbmm: lambda _, x, y: x.numel() * y.shape[-1],
    ATEN.addmv: lambda _, x, y: x.numel(),
}


def _registered(packet: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    """What the formula says that was given to `torch.utils.flop_counter.register_flop_formula`."""
    return int(flop_registry[packet](*args, **kwargs, out_val=out))


class OperationCounter(TorchDispatchMode):
    """While it is entered, adds up what runs: `.counts` by kind, `.unknown` calls by operator.

    A product of a matrix with what follows from `x` counts as linear, of two things that follow from `x` as attention,
    and of two matrices not at all.
    """

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter(dict.fromkeys((*KINDS, EXACT_SCAN, NORMED, RESIZED), 0))
        self.unknown: Counter[str] = Counter()
        # By storage, since what is written into a part of a tensor reaches the whole. Weak, so that nothing is kept
        # alive; and no other storage gets the same address while the reference lasts.
        self._followers = {StorageWeakRef(x.untyped_storage())}

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = operator(*args, **kwargs)
        self.counts.update(self._cost(operator, args, kwargs, out))
        if any(map(self._follows, tree_leaves((args, kwargs)))):
            written = [arg for arg, told in zip(args, operator._schema.arguments, strict=False) if _is_written(told)]
            self._followers.update(_storages((out, written)))
        return out

    def _cost(self, operator: Any, args: Any, kwargs: Any, out: Any) -> Counts:
        packet, name = operator.overloadpacket, str(operator.overloadpacket)
        if packet in PRODUCTS:
            factors = [arg for arg in args if isinstance(arg, Tensor)]
            follow = sum(map(self._follows, factors[-2:]))
            if not follow:
                return {}  # weights made of weights, the same for one image and for a thousand
            return {ATTENTION if follow == 2 else LINEAR: _multiply_adds(PRODUCTS[packet](*factors), out)}
        if packet in FORMULAS:
            return FORMULAS[packet](_positional(operator, args, kwargs), out)
        if name.startswith("aten._scaled_dot_product"):
            return _attention(args, out)
        if packet in flop_registry:
            return {OTHER: _registered(packet, args, kwargs, out)}
        if not _is_uncounted(operator):
            self.unknown[name.replace(".", "::")] += 1
        return {}

    def _follows(self, x: Any) -> bool:
        return isinstance(x, Tensor) and not self._followers.isdisjoint(_storages(x))


def _storages(tensors: Any) -> set[StorageWeakRef]:
    strided = (x for x in tree_leaves(tensors) if isinstance(x, Tensor) and x.layout is torch.strided)
    return {StorageWeakRef(x.untyped_storage()) for x in strided}


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _positional(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """All arguments in the order of the schema."""
    rest = operator._schema.arguments[len(args) :]
    return (*args, *(kwargs.get(told.name, told.default_value) for told in rest))


def _is_uncounted(operator: Any) -> bool:
    """Whether an operator is known to be of those that have no count by convention."""
    if operator.namespace not in ("aten", "prim"):
        return False
    kinds = {str(tag).removeprefix("Tag.") for tag in operator.tags}
    name = operator.overloadpacket.__name__
    return operator.namespace == "prim" or "pointwise" in kinds or bool({name, name.rstrip("_")} & UNCOUNTED)
