"""Arrays of TensorFlow and Keras become our weights: as they define convolutions, strictly, and running nothing."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from evssm.arrays import arrays_of, read_arrays, tensors_of
from evssm.models import build
from evssm.weights import from_official, load, to_official


def whole_numbers(*shape):
    return np.random.default_rng().integers(-9, 9, shape).astype(np.float64)


def as_tensor(image):
    """A picture `h w c` as `1 c h w`."""
    return torch.from_numpy(image.transpose(2, 0, 1))[None]


def test_a_convolution_is_tensorflows():
    """out[i, j, o] = sum of kernel[a, b, c, o] x[i + a, j + b, c]."""
    kernel, x = whole_numbers(2, 3, 4, 5), whole_numbers(6, 7, 4)
    wanted = np.zeros((5, 5, 5))
    for i, j, a, b in np.ndindex(5, 5, 2, 3):
        wanted[i, j] += x[i + a, j + b] @ kernel[a, b]
    assert torch.equal(F.conv2d(as_tensor(x), tensors_of({"k": kernel})["k"]), as_tensor(wanted))


def test_a_transposed_convolution_is_tensorflows():
    """What is at i, j goes to 2 i + a - 1, 2 j + b - 1, times kernel[a, b, o, c]: 4 x 4, stride 2, "SAME"."""
    kernel, x = whole_numbers(4, 4, 3, 2), whole_numbers(3, 5, 2)
    wanted = np.zeros((8, 12, 3))
    for i, j, a, b in np.ndindex(3, 5, 4, 4):
        wanted[2 * i + a, 2 * j + b] += kernel[a, b] @ x[i, j]
    found = F.conv_transpose2d(as_tensor(x), tensors_of({"k": kernel})["k"], stride=2, padding=1)
    assert torch.equal(found, as_tensor(wanted[1:-1, 1:-1]))


@pytest.mark.parametrize("name", ["srn-compact", "srn-lstm-compact", "kpac-two-level-compact", "dpdnet-compact"])
def test_a_file_of_arrays_makes_the_network(name, tmp_path):
    net = build(name)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter)
    arrays = arrays_of(to_official(net))
    kernel = next(array for array in arrays.values() if array.ndim == 4)
    assert kernel.shape[0] == kernel.shape[1]  # rows and columns come first
    np.savez(tmp_path / "net.npz", **arrays)
    again = from_official(name, tmp_path / "net.npz")
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in net.state_dict().items())
    assert again.provenance.file == "net.npz"


def test_a_file_of_arrays_is_recognised_and_taken_strictly(tmp_path):
    arrays = arrays_of(to_official(build("srn-compact")))
    np.savez(tmp_path / "net.npz", **arrays)
    with pytest.raises(ValueError, match=r"load\(path, name='srn'\)"):
        load(tmp_path / "net.npz")
    wrong = {
        **arrays,
        "g_net/enc1_1/weights": arrays["g_net/enc1_1/weights"].transpose(3, 2, 0, 1),
        "step": arrays.pop("g_net/dec1_0/biases"),
    }
    del wrong["g_net/dec1_0/biases"]
    np.savez(tmp_path / "wrong.npz", **wrong)
    with pytest.raises(
        ValueError, match=r"1 missing: g_net/dec1_0/biases; 1 unexpected: step; 1 misshapen: g_net/enc1_1"
    ):
        from_official("srn", tmp_path / "wrong.npz", width=7, separate=False)


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8"])
def test_any_byte_order_and_precision_is_read(dtype):
    array = whole_numbers(3, 3, 2, 4).astype(dtype)
    (tensor,) = tensors_of({"k": array}).values()
    assert tensor.dtype == {2: torch.float16, 4: torch.float32, 8: torch.float64}[array.itemsize]
    assert_close(arrays_of({"k": tensor})["k"], array.astype(array.dtype.newbyteorder("=")))


def test_what_is_no_plain_array_of_numbers_is_refused(tmp_path):
    path = tmp_path / "list.npz"
    listed = np.empty(2, object)
    listed[:] = [np.ones(3), np.ones(4)]
    np.savez(path, params=listed)
    with pytest.raises(ValueError, match=r"Python objects.*numpy\.savez\(new, \*numpy\.load"):
        from_official("kpac", path)
    with pytest.raises(ValueError, match=r"which step \(int64\) are not"):
        tensors_of({"step": np.arange(3), "w": np.ones(2)})
    np.savez(path, w=np.random.default_rng().random(500))
    broken = bytearray(path.read_bytes())
    broken[300] ^= 255
    path.write_bytes(broken)
    with pytest.raises(ValueError, match="damaged"):
        read_arrays(path)
