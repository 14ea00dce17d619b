"""Weights as TensorFlow and Keras have them: plain arrays by the names of their variables, in an `.npz` file.

A kernel there has the axes rows, columns, in, out, that of a transposed convolution rows, columns, out, in. The same
change of order makes PyTorch's kernels of both; nothing is mirrored, for both libraries correlate.

How to write the file, with the library that the authors used:

    # SRN (TensorFlow): the network's variables, without what the optimiser keeps
    found = tf.train.load_checkpoint("checkpoints/color/deblur.model-523000")
    names = [n for n in found.get_variable_to_shape_map() if n.startswith("g_net/") and "Adam" not in n]
    numpy.savez("srn.npz", **{n: found.get_tensor(n) for n in names})

    # KPAC (TensorLayer): the arrays of its list, in their order; reading a pickle runs what it says
    numpy.savez("kpac.npz", *numpy.load("released.npz", allow_pickle=True)["params"])

    # DPDNet (Keras): its 24 convolutions, numbered from 1 in the order in which they were made
    weights = [layer.get_weights() for layer in keras.models.load_model("released.hdf5").layers]
    pairs = enumerate((pair for pair in weights if pair), 1)
    numpy.savez("dpdnet.npz", **{f"conv2d_{i}/{kind}": pair[k] for i, pair in pairs
                                 for k, kind in enumerate(("kernel", "bias"))})

None of the three was tried on the released files: names and order are those of the authors' code as it was read.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_ROOM, _GAIN = 2**30, 100
"""Bytes that any archive may unpack to, and how many times its own size a larger one may: packed weights shrink little,
constants of fresh ones a lot."""


def tensors_of(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """The arrays as tensors with PyTorch's order of axes, by the same names; `from_official` takes them.

    Raises `ValueError` for arrays that are no floating-point numbers of 16, 32 or 64 bits.
    """
    strange = [f"{name} ({a.dtype})" for name, a in arrays.items() if a.dtype.kind != "f" or a.dtype.itemsize > 8]
    if strange:
        raise ValueError(
            f"weights are floating-point numbers of up to 64 bits, which {', '.join(strange[:3])} are not; leave them "
            "out"
        )
    turned = {name: a.transpose(3, 2, 0, 1) if a.ndim == 4 else a for name, a in arrays.items()}
    return {name: torch.from_numpy(a.astype(a.dtype.newbyteorder("="), "C")) for name, a in turned.items()}


def arrays_of(state: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """The inverse of `tensors_of`: what `to_official` gives, as `numpy.savez(path, **arrays)` takes it."""
    turned = {name: t.detach().cpu().permute(2, 3, 1, 0) if t.dim() == 4 else t for name, t in state.items()}
    return {name: t.numpy(force=True).copy() for name, t in turned.items()}


def packed_names(path: Path) -> list[str]:
    """What a zip archive of weights holds, by name.

    `ValueError` where it is not whole, and where it says of itself that it unpacks to far more than weights ever do.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception as error:  # the parser of a damaged archive fails in many ways
        raise _damaged(path, error) from None
    size, unpacked = path.stat().st_size, sum(entry.file_size for entry in entries)
    if unpacked > max(_ROOM, _GAIN * size):
        raise ValueError(
            f"{path} has {size} bytes and would unpack to {unpacked}, as no weights do; where you trust it, unpack it "
            "and save them anew"
        )
    return [entry.filename for entry in entries]


def read_arrays(path: Path) -> dict[str, Tensor]:
    """The tensors of an `.npz` file; `ValueError` where it is damaged or holds anything but plain arrays."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except Exception as error:  # a damaged zip, stream or array header each has errors of its own
        if "allow_pickle" not in str(error):
            raise _damaged(path, error) from None
        raise ValueError(
            f"{path} holds Python objects, and reading those would run what they say; where you trust the file, make "
            "plain arrays of its list: numpy.savez(new, *numpy.load(path, allow_pickle=True)['params'])"
        ) from None
    try:
        return tensors_of(arrays)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _damaged(path: Path, error: Exception) -> ValueError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ValueError(f"{path} is cut short or damaged ({reason}); copy or download it again")
