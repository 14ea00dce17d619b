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
# # Does EVSSM look farther than convolutions and attention?
#
# The supplement's Fig. 4 says so. Here the same question is put to the project's compact networks, trained alike, on
# photographs that none of them saw in training. The fields are those of `make figures`, on fewer and smaller images.

# %%
from IPython.display import Markdown
from matplotlib import pyplot as plt

from analysis import draw_radial_profile, effective_receptive_field, erf_panels
from analysis.field_table import field_table
from analysis.verdicts import compare
from evssm import load
from evssm.data.embedded import embedded_test
from evssm.images import crop_centre
from evssm.weights import bundled

NETWORKS = ("mimo-unet-plus", "nafnet", "restormer", "fftformer", "stripformer", "evssm")
PROFILE = "quick"  # or "paper": larger photographs and shorter motions too, some ten minutes
SIZE, EXTENTS = {"quick": (96, (8, 24)), "paper": (256, (4, 8, 16, 24))}[PROFILE]

# %% [markdown]
# Trained weights come with the package; what trained too little is not among them.

# %%
nets = {name: load(f"{name}-compact") for name in NETWORKS if f"{name}-compact" in bundled()}
{name: f"{net.provenance.steps} steps, {net.provenance.data}" for name, net in nets.items()}

# %% [markdown]
# Held-out photographs, blurred by straight motions.

# %%
pairs = embedded_test(extents=EXTENTS, straight=True)
images = [crop_centre(pairs[i].blurred, SIZE, SIZE) for i in range(len(pairs))]
figure, axes = plt.subplots(1, len(images), figsize=(9, 1.8), layout="constrained")
for i, (ax, image) in enumerate(zip(axes, images, strict=True)):
    ax.imshow(image.permute(1, 2, 0).numpy())
    ax.set_title(pairs[i].name.replace("-straight-", ", ").removesuffix("-0"))
    ax.set_axis_off()

# %%
fields = {name: effective_receptive_field(net, images) for name, net in nets.items()}
figure = erf_panels(fields)

# %% [markdown]
# A picture on a logarithmic scale hides how little lies far away. The share of the sensitivity within a distance:

# %%
figure, ax = plt.subplots(figsize=(5, 3), layout="constrained")
ax = draw_radial_profile(ax, {name: field.profile() for name, field in fields.items()})

# %%
Markdown(field_table({name: [field] for name, field in fields.items()}))

# %% [markdown]
# ## Does the claim show here?
#
# Differences of R90, the radius that holds 90 % of the sensitivity, with intervals over the images.

# %%
ours = [fields["evssm"]]
for name, field in fields.items():
    if name != "evssm":
        print(
            compare(f"EVSSM reaches farther than {name}", ours, [field], "radius", share=0.9, label="R90 in px", n=200)
        )
