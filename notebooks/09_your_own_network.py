# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Does all this work with my network, and with the official weights?
#
# Every question can be put to any image-to-image `nn.Module` or function. Official weights come from a file, key for
# key or not at all. On the command line the same is `evssm erf mypackage.mymodel:MyNetwork --image photo.png` and
# `evssm erf evssm --weights net_g_GoPro.pth`.

# %%
from contextlib import chdir
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import torch
import torch.nn.functional as F
from IPython.display import Markdown
from torch import nn

from analysis import ScanCache, activation_panels, effective_receptive_field, erf_panels
from evssm import MODELS, build, edit, from_official, load, record, selective_scan, to_official
from evssm.data.embedded import embedded_test
from evssm.images import crop_centre

PROFILE = "quick"  # or "paper": larger photographs
SIZE = {"quick": 64, "paper": 192}[PROFILE]

# %% [markdown]
# ## A network of one's own
#
# A restorer with one selective scan over the map, read row by row. It knows nothing of this project but the operator;
# mamba-ssm's `selective_scan_fn` would do as well. Its weights are random, and every picture of it says so.


# %%
class Mine(nn.Module):
    def __init__(self, d=8, n=4):
        super().__init__()
        self.head, self.tail = nn.Conv2d(3, d, 3, padding=1), nn.Conv2d(d, 3, 3, padding=1)
        self.select = nn.Conv2d(d, d + 2 * n, 1)
        self.A, self.sizes = nn.Parameter(-torch.rand(d, n) / 4), (d, n, n)

    def forward(self, x):
        u = self.head(x)
        delta, B, C = self.select(u).flatten(2).split(self.sizes, dim=1)
        y = selective_scan(u.flatten(2), delta - 3, self.A, B, C, delta_softplus=True)
        return x + self.tail(y.view_as(u))


torch.manual_seed(0)
mine = Mine()
images = [crop_centre(embedded_test(extents=(12,), straight=True)[i].blurred, SIZE, SIZE) for i in range(3)]
f"{sum(p.numel() for p in mine.parameters())} parameters, {len(images)} images of {SIZE} x {SIZE} px"

# %% [markdown]
# ## How far does it look?
#
# Beside it a plain function, the mean of 9 x 9 pixels, and a trained network of this project. `trained` says what you
# know about the weights, where the network does not say so itself. The mean adds no input that could be left out, so
# for it alone nothing is.

# %%
fields = {
    "mine": effective_receptive_field(mine, images, trained=False),
    "mean of 9 x 9": effective_receptive_field(lambda x: F.avg_pool2d(x, 9, 1, 4), images, residual="include"),
    "evssm-compact": effective_receptive_field(load("evssm-compact"), images),
}
figure = erf_panels(fields)

# %% [markdown]
# Is it right? The field of a mean is known: the same at 81 pixels. And a scan that reads row by row sees nothing that
# comes after the query, but for the rim of the convolutions.

# %%
box = np.zeros((SIZE, SIZE))
box[SIZE // 2 - 4 : SIZE // 2 + 5, SIZE // 2 - 4 : SIZE // 2 + 5] = 1 / 81
wrong = float(np.abs(fields["mean of 9 x 9"].map - box).max())
rasters = {name: field.asymmetry()[2] for name, field in fields.items()}
print(f"largest deviation from 1/81: {wrong:.1e}")
print("share before the query in reading order:", {name: f"{share:.0%}" for name, share in rasters.items()})

# %% [markdown]
# ## Hooks
#
# `record` looks at any module, `edit` changes what it returns; both are undone at the end of the block. With a tail
# that says nothing, this restorer has to return its input.

# %%
with record(mine, "head", "select") as maps, torch.no_grad():
    mine(images[0][None])
with edit(mine, {"tail": torch.zeros_like}), torch.no_grad():
    silent = mine(images[0][None])
{name: tuple(found.tensor.shape) for name, found in maps.items()}, torch.equal(silent, images[0][None])

# %% [markdown]
# ## What its scan gathers
#
# The scan is seen through the operator that it calls; the module needs no name and no stage.

# %%
rows = ScanCache(mine, images[0], trained=False).rows((SIZE // 2, SIZE // 2))
figure = activation_panels({"mine": rows}, images[0])

# %%
{name: f"row times input against the scan's output: {row.check():.1e}" for name, row in rows.items()}

# %% [markdown]
# ## Official weights
#
# They are downloads from their authors, whose repositories say where they lie. Nothing here downloads anything.

# %%
official = {name: model.source for name, model in MODELS.items() if model.naming and not name.endswith("-compact")}
pages = {page: [name for name in official if official[name] == page] for page in official.values()}
Markdown("\n".join(f"- {', '.join(names)}: {page}" for page, names in pages.items()))

# %% [markdown]
# A file of the same kind, made here: the weights of a bundled network under the official keys, wrapped as training
# code wraps them. Width and depths are read from the shapes. The network that comes back is the same, bit for bit.

# %%
net, folder = load("evssm-compact"), Path(mkdtemp())
state = to_official(net)
with chdir(folder), torch.no_grad():
    torch.save({"params": state}, "net_g.pth")
    again = from_official("evssm", "net_g.pth")
    same = torch.equal(again(images[0][None]), net(images[0][None]))
print(f"same output, bit for bit: {same}\n{again.provenance.note}")

# %% [markdown]
# ## What it says when something is wrong
#
# One line, and no network that is loaded in part.

# %%
last = list(state)[-1]
faults = {
    "no such file": "net_g_GoPro.pth",
    "a web page, saved instead of the file": "page.pth",
    "a key is missing": {key: value for key, value in state.items() if key != last},
    "keys have other names": {key.replace("attn", "attention"): value for key, value in state.items()},
    "a weight has another shape": {**state, last: state[last][:2]},
    "weights of another network": to_official(build("nafnet-compact")),
}
refused = {}
with chdir(folder):
    Path("page.pth").write_text("<!DOCTYPE html><html>Sign in</html>")
    for what, given in faults.items():
        try:
            from_official("evssm", given)
        except (FileNotFoundError, ValueError) as error:
            refused[what] = str(error)
            print(f"{what}:\n    {error}\n")

# %% [markdown]
# ## What to take from it

# %%
radii = {name: field.radius(0.9) for name, field in fields.items()}
untrained = [name for name, field in fields.items() if field.untrained]
print(
    f"90 % of the sensitivity lies within {radii['mine']:.0f} px for my network and within "
    f"{radii['evssm-compact']:.0f} px for evssm-compact (untrained: {', '.join(untrained) or 'none'}).\n"
    f"The known field of a mean was found to {wrong:.0e}; the scan's row explains its output to "
    f"{max(row.check() for row in rows.values()):.0e}.\n"
    f"{len(refused)} of {len(faults)} faulty checkpoints were refused, each in "
    f"{max(text.count(chr(10)) + 1 for text in refused.values())} line."
)
