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
# # What are the flips and transposes worth to the receptive field?
#
# The supplement's Fig. 5: EVSSM without both turns, without transposes, without flips, with four-direction scanning,
# and as it is. The compact networks differ in nothing else; where several seeds are bundled they are pooled.

# %%
from IPython.display import Markdown

from analysis import ERF, effective_receptive_field, erf_panels
from analysis.field_table import BEYOND, field_table
from analysis.verdicts import compare
from evssm import load
from evssm.data.embedded import embedded_test
from evssm.images import crop_centre
from evssm.weights import bundled

VARIANTS = {
    "w/o F&T": "evssm-no-geot-compact",
    "w/o T": "evssm-no-transpose-compact",
    "w/o F": "evssm-no-flip-compact",
    "four-direction": "evssm-four-direction-compact",
    "EVSSM": "evssm-compact",
}
SEEDS = ("", "-seed1", "-seed2")
PROFILE = "quick"  # or "paper": larger photographs and shorter motions too, some ten minutes
SIZE, EXTENTS = {"quick": (96, (8, 24)), "paper": (256, (4, 8, 16, 24))}[PROFILE]

# %%
files = {title: [name + seed for seed in SEEDS if name + seed in bundled()] for title, name in VARIANTS.items()}
files = {title: found for title, found in files.items() if found}
files

# %%
pairs = embedded_test(extents=EXTENTS, straight=True)
images = [crop_centre(pairs[i].blurred, SIZE, SIZE) for i in range(len(pairs))]
fields = {title: [effective_receptive_field(load(name), images) for name in names] for title, names in files.items()}
figure = erf_panels({title: ERF.pooled(seeds) for title, seeds in fields.items()})

# %% [markdown]
# Extent is not all. A scan that is never turned has seen the rows above a pixel and the row before it, and nothing
# else: beyond the reach of the convolutions its field must be lopsided. "up-down" and "left-right" compare halves.

# %%
Markdown(field_table(fields))

# %% [markdown]
# ## Does the claim show here?

# %%
for better, worse in (("EVSSM", "w/o T"), ("EVSSM", "w/o F"), ("w/o T", "w/o F&T"), ("w/o F", "w/o F&T")):
    if better in fields and worse in fields:
        claim = f"{better} reaches farther than {worse}"
        print(compare(claim, fields[better], fields[worse], "radius", share=0.9, label="R90 in px", n=200))

# %% [markdown]
# And what the turns are for by construction: without them a pixel gathers more from what a raster scan has passed.

# %%
for title, seeds in fields.items():
    if title != "w/o F&T" and "w/o F&T" in fields:
        claim = f"w/o F&T leans more on what a raster scan has passed than {title}"
        raster = lambda field: field.asymmetry(BEYOND).raster  # noqa: E731
        print(compare(claim, fields["w/o F&T"], seeds, raster, label="raster-causal share", n=200))
