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
# # What does one pixel gather inside EVSSM?
#
# The supplement's Fig. 6 shows activation maps of a query pixel. A selective scan is a matrix that depends on its
# input: row t says how much of every pixel s arrives at t. Here that row is computed exactly, at full resolution, for
# every EVSS module, and drawn as the image lies.

# %%
import numpy as np

from analysis import ScanCache, activation_panels
from evssm import load
from evssm.data.embedded import embedded_test
from evssm.images import crop_centre

MODELS_HERE = ("evssm-compact", "evssm-four-direction-compact", "evssm-no-geot-compact")
PROFILE = "quick"  # or "paper": a larger photograph
SIZE = {"quick": (128, 160), "paper": (256, 320)}[PROFILE]
QUERY = (SIZE[0] // 2, SIZE[1] // 2)

# %% [markdown]
# A photograph that no network was trained on, blurred by a straight motion of 12 pixels.

# %%
image = crop_centre(embedded_test(extents=(12,), straight=True)[0].blurred, *SIZE)
caches = {name: ScanCache(load(name), image) for name in MODELS_HERE}
{name: f"{cache.bytes / 2**20:.1f} MiB kept" for name, cache in caches.items()}

# %% [markdown]
# One map per module, outlined what the order of its scans allows. The same pixel through EVSSM, through four-direction
# scanning and without turns.

# %%
rows = {name: cache.rows(QUERY) for name, cache in caches.items()}
figure = activation_panels(rows, image)

# %% [markdown]
# Is a map true? The row, multiplied with what entered the scan, must give what left it.

# %%
{name: f"{max(row.check() for row in found.values()):.1e}" for name, found in rows.items()}

# %% [markdown]
# Another pixel costs no other run of the network.

# %%
elsewhere = caches["evssm-compact"].rows((SIZE[0] // 4, 3 * SIZE[1] // 4))
figure = activation_panels({"evssm-compact": elsewhere}, image)
{stage: f"largest {np.abs(row.map).max():.1e}, error {row.check():.0e}" for stage, row in elsewhere.items()}

# %% [markdown]
# How far the maps reach: the mean distance from the query, weighted by the map, in image pixels.


# %%
def reach(row):
    r, c = np.indices(row.map[row.inside].shape)
    mass = np.abs(row.map[row.inside])
    far = np.hypot(r - row.cell[0], c - row.cell[1]) * row.stride
    return float((mass * far).sum() / mass.sum())


reaches = {name: {stage: reach(row) for stage, row in found.items()} for name, found in rows.items()}
{name: {stage: round(px, 1) for stage, px in of_one.items()} for name, of_one in reaches.items()}

# %% [markdown]
# ## What to take from it

# %%
means = {name: float(np.mean(list(of_one.values()))) for name, of_one in reaches.items()}
allowed = {name: np.mean([row.support[row.inside].mean() for row in found.values()]) for name, found in rows.items()}
for name, far in means.items():
    print(
        f"{name}: a module may see {allowed[name]:.0%} of the pixels and gathers from {far:.1f} px away on average "
        f"({len(rows[name])} modules, one image, one query)."
    )
