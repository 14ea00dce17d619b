"""What each reader owes to a file of any bytes: its content, or a refusal in a line that names the file.

`READERS` go by the folders of `tests/corpus`; each takes bytes and raises `AssertionError` where a reader fails."""

import json
import warnings
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

import torch
from safetensors.torch import save as serialised

from analysis.attribution import load_attributions
from analysis.field import ERF
from analysis.kept_rows import load_rows
from analysis.layer_attributions import load_layers
from evssm import build, load
from evssm.data.lmdb import LmdbImages
from evssm.images import decode_image
from evssm.ledger import read_ledger
from evssm.provenance import Provenance
from evssm.training.checkpoint import Checkpoint
from evssm.training.journal import read_journal
from evssm.training.recipes import TrainConfig
from evssm.weights import from_official

PLACE = Path(mkdtemp(prefix="odd name "))
TINY = {"width": 2, "encoder_depths": (1,), "middle_depth": 1, "decoder_depths": (1,)}


class Trap:
    """Runs code where it is unpickled carelessly."""

    sprung = False

    def __reduce__(self):
        return setattr, (Trap, "sprung", True)


@contextmanager
def refusing(name):
    """Lets a reader refuse, in a line that names the file, and do nothing else; no warning is an answer."""
    refusal = name
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            yield
        except (ValueError, FileNotFoundError) as error:
            refusal = str(error)
        except AssertionError:
            raise
        except Exception as error:
            raise AssertionError(f"{type(error).__name__} instead of a refusal: {error}") from error
    assert "\n" not in refusal, refusal
    assert name in refusal, refusal
    assert not Trap.sprung


def _file(data, name):
    path = PLACE / name
    path.write_bytes(data)
    return path


def image(data):
    with refusing("odd name.png"):
        x = decode_image(data, "odd name.png")
        assert x.dtype == torch.float32
        assert x.shape[0] == 3
        assert 0 <= float(x.min()) <= float(x.max()) <= 1


def checkpoint(data):
    path = _file(data, "odd name.pth")
    for read in (load, lambda path: from_official("nafnet-compact", path)):
        with refusing("odd name.pth"):
            net = read(path)
            assert all(bool(torch.isfinite(value).all()) for value in net.state_dict().values())


def result(data):
    """What a run goes on from, or what is drawn."""
    path = _file(data, "odd name")
    of_arrays = (ERF.load, load_rows, load_attributions, load_layers)
    for read in (*of_arrays, read_ledger, read_journal, lambda path: Checkpoint.load(path, {"seed": 0})):
        with refusing("odd name"):
            read(path)


def settings(data):
    """Settings and descriptions: JSON inside of other files, and the list of a database."""
    home = PLACE / "odd name.lmdb"
    home.mkdir(exist_ok=True)
    _file(data, "odd name.lmdb/meta_info.txt")
    with refusing("odd name.lmdb"):
        LmdbImages(home)
    try:
        text = data.decode()
        values = json.loads(text)
    except (ValueError, RecursionError):
        return
    weights = {"intro.weight": torch.zeros(1)}
    with refusing("odd name.safetensors"):
        load(_file(serialised(weights, metadata={"evssm": text}), "odd name.safetensors"))
    if isinstance(values, dict):
        for read in (TrainConfig.from_dict, Provenance.from_dict):
            with refusing(""):
                read(values)


READERS = {"images": image, "checkpoints": checkpoint, "results": result, "settings": settings}


def tiny():
    """The network whose weights are read."""
    torch.manual_seed(0)
    return build("nafnet-compact", **TINY)
