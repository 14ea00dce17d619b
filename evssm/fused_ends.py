"""What a kernel has at its ends: maps, a matrix between them and it, and the gradients of parameters, task by task."""
# As in `evssm.lanes`, @no_type_check keeps the shape checker of the tests away from what numba compiles.

from itertools import accumulate
from typing import NamedTuple, no_type_check

from evssm.compiled import compiled
from evssm.kernel_tasks import address_of
from evssm.map_memory import Maps, maps_of, readable


@no_type_check
class End(NamedTuple):
    """Maps before or after the convolution, and the matrix between them and it, if it has inputs.

    `weight` is `outputs inputs` and `turned` its transpose, so that either has what is needed side by side.
    """

    maps: Maps
    inputs: int
    outputs: int
    weight: int
    turned: int


@no_type_check
class Sums(NamedTuple):
    """Where a task adds up the gradients of parameters, and the bytes to where the next task does."""

    projection: int
    weight: int
    bias: int
    output: int
    step: int


@compiled
@no_type_check
def own_sums(sums, task):
    """Those of a task."""
    moved = task * sums.step
    return Sums(sums.projection + moved, sums.weight + moved, sums.bias + moved, sums.output + moved, sums.step)


@no_type_check
def end_of(x, matrix, weight, turned):
    """Maps at one end of a kernel, the matrix there as it is wanted, turned or not, and the tensors that hold them."""
    x = readable(x)
    if matrix is None:
        return End(maps_of(x), 0, 0, 0, 0), x
    as_it_is, across = matrix.contiguous() if weight else None, matrix.T.contiguous() if turned else None
    outputs, inputs = matrix.shape
    return End(maps_of(x), inputs, outputs, address_of(as_it_is), address_of(across)), (x, as_it_is, across)


@no_type_check
def room_for_sums(x, tasks, *parameters):
    """Zeros for the gradients of some parameters, by task, and the address of each one's first; None has none."""
    counts = [0 if p is None else p.numel() for p in parameters]
    room = x.new_zeros(tasks, sum(counts))
    ends = list(accumulate(counts, initial=0))
    return room, [room.data_ptr() + start * x.element_size() for start in ends[:-1]]


@no_type_check
def summed(room, projection, weight, bias, output):
    """The gradients of the parameters from those by task; empty for None.

    Those of weight and bias stand as one table, a tap of all channels after the other and the bias last. It is summed
    apart from the matrices: torch adds the last columns of a tensor in another order than the rest, so that what
    stands beside a column would change its last digit.
    """
    before, taps, channels, after = (0 if p is None else p.numel() for p in (projection, weight, bias, output))
    dprojection, table, doutput = (part.sum(0) for part in room.split([before, taps + channels, after], dim=1))
    dweight, dbias = table.split([taps, channels])
    return [
        dprojection if projection is None else dprojection.view(projection.shape),
        dweight if weight is None else dweight.view(-1, channels).T.contiguous().view(weight.shape),
        dbias.clone(),  # what an operator gives may not share memory
        doutput if output is None else doutput.view(output.shape),
    ]


NO_END = End(maps_of(None), 0, 0, 0, 0)
