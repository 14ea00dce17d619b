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
# # How far does a network look?
#
# The effective receptive field of a deblurring network: how strongly each input pixel moves one output pixel. This
# notebook computes it for a small EVSSM and a small NAFNet on real photographs, and looks on the way at what EVSSM's
# turns do to its feature maps.

# %%
import matplotlib.pyplot as plt
import torch

from analysis import draw_radial_profile, effective_receptive_field, erf_panels
from evssm import MODELS, load, record, stages
from evssm.photographs import photographs

MODELS_HERE = ("evssm-compact", "nafnet-compact")
PROFILE = "quick"  # or "paper": larger cuts
SIZE = {"quick": (96, 128), "paper": (256, 320)}[PROFILE]

# %% [markdown]
# Two small networks that come trained with the package. Official weights come from a file (`evssm.from_official`), and
# `build` gives untrained ones, which every picture says by itself.

# %%
nets = {name: load(name) for name in MODELS_HERE}
{name: (MODELS[name].summary, sum(p.numel() for p in net.parameters())) for name, net in nets.items()}

# %% [markdown]
# Real photographs, cut from the middle and never resized, since resizing would sharpen them. Any size works. The
# networks were trained on the motorcycle, the astronaut and the rocket, not on coffee and chelsea.

# %%
images = photographs(SIZE)
figure, axes = plt.subplots(1, len(images), figsize=(9, 1.9), layout="constrained")
for ax, (name, image) in zip(axes, images.items(), strict=True):
    ax.imshow(image.permute(1, 2, 0).numpy())
    ax.set_title(name)
    ax.set_axis_off()

# %% [markdown]
# A network is a function from an image to an image.

# %%
batch = torch.stack(list(images.values()))
with torch.no_grad():
    restored = nets["evssm-compact"](batch)
tuple(restored.shape)

# %% [markdown]
# ## How do the maps inside lie?
#
# EVSSM transposes its map before every even block and turns it by 180 degrees before every odd one, and never turns it
# back one by one. Each stage knows its frame.

# %%
[(stage.name, stage.channels, stage.stride, str(stage.frame)) for stage in stages(nets["evssm-compact"])][:8]

# %% [markdown]
# `record` collects what the blocks return; `upright()` turns a map as the image lies.

# %%
with record(nets["evssm-compact"], "encoder.0.0", "encoder.0.1") as maps, torch.no_grad():
    nets["evssm-compact"](batch[:1])
figure, axes = plt.subplots(1, 2 * len(maps), figsize=(9, 2.2), layout="constrained")
for k, (name, found) in enumerate(maps.items()):
    for ax, shown, label in ((axes[2 * k], found.tensor, "as stored"), (axes[2 * k + 1], found.upright(), "upright")):
        ax.imshow(shown[0].square().mean(dim=0).sqrt().numpy(), cmap="magma")
        ax.set_title(f"{name}, {label}")
        ax.set_axis_off()

# %% [markdown]
# ## The receptive field
#
# The default estimator is the root of the summed squares of all derivatives, so that nothing cancels; the input that
# the network adds back is left out. Each field is relative to its own maximum; circles hold 50 % and 90 % of the mass.

# %%
fields = {name: effective_receptive_field(net, list(images.values())) for name, net in nets.items()}
figure = erf_panels(fields)

# %% [markdown]
# The same as numbers: how much of the sensitivity lies within a distance.

# %%
figure, ax = plt.subplots(figsize=(5, 3), layout="constrained")
ax = draw_radial_profile(ax, {name: field.profile() for name, field in fields.items()})

# %%
for name, field in fields.items():
    low, high = field.interval("radius", share=0.9)
    vertical, horizontal, raster = field.asymmetry()
    print(
        f"{name}: R90 {field.radius(0.9):.1f} px (95 % interval over images {low:.1f} to {high:.1f}); "
        f"asymmetry up-down {vertical:+.2f}, left-right {horizontal:+.2f}"
    )

# %% [markdown]
# ## What to take from it

# %%
radii = {name: field.radius(0.9) for name, field in fields.items()}
wide, narrow = max(radii, key=radii.get), min(radii, key=radii.get)
untrained = [name for name, field in fields.items() if field.untrained]
print(
    f"On these {len(images)} photographs 90 % of the sensitivity lies within {radii[wide]:.0f} px for {wide}, "
    f"within {radii[narrow]:.0f} px for {narrow}.\n"
    f"Untrained: {', '.join(untrained) or 'none'}. A field of untrained weights says how a network is built, not "
    "what it has learnt."
)
