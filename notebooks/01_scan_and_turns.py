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
# # What do a flip and a transpose do to a scan?
#
# A selective scan walks through the pixels one row after the other. A pixel can gather from what the walk has passed,
# and from nothing else. EVSSM scans once per block and turns the map before: transposed before even blocks, by 180
# degrees before odd ones. This notebook draws where a pixel can look then, and what a scan really takes from there.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

from analysis import ScanCache, activation_panels
from evssm import build, load, stages
from evssm.geometry import HALF_TURN, IDENTITY, TRANSPOSE
from evssm.photographs import photograph
from evssm.scan import selective_scan
from evssm.weights import bundled

MODEL = "evssm-compact"
PROFILE = "quick"  # or "paper": a larger photograph
SIZE = {"quick": (128, 160), "paper": (256, 320)}[PROFILE]
FRAMES = {"upright": IDENTITY, "transposed": TRANSPOSE, "half turn": HALF_TURN, "both": HALF_TURN @ TRANSPOSE}

# %% [markdown]
# The order in which a scan visits an image of 6 x 9 pixels that was turned before: dark pixels first.

# %%
h, w = 6, 9
figure, axes = plt.subplots(1, 4, figsize=(9, 1.9), layout="constrained")
for ax, (name, frame) in zip(axes, FRAMES.items(), strict=True):
    steps = torch.arange(h * w).view(frame.size(h, w))
    ax.imshow(frame.inverse(steps).numpy(), cmap="viridis")
    ax.set_title(name)
    ax.set_axis_off()

# %% [markdown]
# One scan by itself: `h_t = exp(delta A) h_{t-1} + delta B u_t`, `y_t = C h_t`. An impulse shows what later steps
# receive from it. Nothing goes back.

# %%
length, place = 60, 20
u = torch.zeros(1, 1, length, dtype=torch.float64)
u[..., place] = 1.0
steady = torch.ones(1, 1, length, dtype=torch.float64)
figure, ax = plt.subplots(figsize=(6, 2.4), layout="constrained")
for step in (0.05, 0.2, 1.0):
    y = selective_scan(u, step * steady, -torch.ones(1, 1, dtype=torch.float64), steady, steady)
    ax.plot(y[0, 0].numpy(), label=f"delta = {step:g}")
ax.axvline(place, color="0.6", linewidth=0.8)
ax.set_xlabel("step of the scan")
ax.set_ylabel("response to an impulse")
ax.legend(frameon=False)
assert not y[..., :place].any()

# %% [markdown]
# In the network the turns alternate, and so do the frames of its blocks:

# %%
net = load(MODEL) if MODEL in bundled() else build(MODEL)
[(stage.name, str(stage.frame)) for stage in stages(net) if ".mixer" not in stage.name][:8]

# %% [markdown]
# ## What a pixel gathers in each of the first blocks
#
# The exact row of the scan's implicit attention, as the image lies; outlined is what the order of the scan allows. The
# colours are logarithmic and relative to the largest value of each map.

# %%
image = photograph("coffee", SIZE)
query = (SIZE[0] // 2, SIZE[1] // 2)
cache = ScanCache(net, image, "encoder.0.*")
rows = cache.rows(query)
figure = activation_panels({MODEL: rows}, image)

# %% [markdown]
# The rows are no estimate: multiplied with the scan's input they give its output. `check` is the relative error.

# %%
{name: f"{row.check():.1e}" for name, row in rows.items()}

# %% [markdown]
# ## What to take from it

# %%
seen = {name: np.asarray(row.support[row.inside]) for name, row in rows.items()}
everything = np.logical_or.reduce(list(seen.values()))
shares = ", ".join(f"{name} {mask.mean():.0%}" for name, mask in seen.items())
print(
    f"Of {image.shape[1]} x {image.shape[2]} pixels the query can see, block by block: {shares}; "
    f"together {everything.mean():.0%}.\n"
    f"The rows rebuild the scan's output to {max(row.check() for row in rows.values()):.0e}."
)
