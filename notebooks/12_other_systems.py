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
# # What makes the other systems worth inspecting?
#
# The supplement compares with more networks than Fig. 4 draws: SRN and DeblurGAN for motion, DPDNet, KPAC and IFAN for
# defocus. Each has one thing that the others lack. Networks that do not come trained with the package have the weights
# that they start with here, and the pictures say so: such a picture shows an architecture, not what was learned.

# %%
from importlib.resources import files

import numpy as np
import torch
from IPython.display import Markdown
from matplotlib import pyplot as plt
from scipy.stats import spearmanr

from analysis import effective_receptive_field, erf_panels, structural_field
from analysis.instance_norms import constant_statistics
from analysis.plots import draw_untrained_badge
from evssm import MODELS, build, load, psnr, record
from evssm.blur_maps import sigma_from_edges, sigma_of_circles
from evssm.data.motorcycle import DefocusTest
from evssm.deconvolution import deblurred_by_map, disc_kernel
from evssm.hooks import edit
from evssm.tf_layers import doubled
from evssm.weights import bundled

PROFILE = "quick"  # or "paper": a larger part of the photograph
EDGE = {"quick": 128, "paper": 192}[PROFILE]
NAMES = ("deblurgan", "srn", "dpdnet", "kpac", "ifan")
SINGLE, DUAL, ITEM = DefocusTest(), DefocusTest(dual_pixel=True), 1


def network(name, **arguments):
    torch.manual_seed(0)
    return load(name, **arguments) if name in bundled() else build(name.removesuffix("-defocus"), **arguments).eval()


def untrained(net):
    return net.provenance is None


def weights_of(net):
    return "fresh weights" if untrained(net) else "trained"


# %% [markdown]
# ## Which of them are trained here?
#
# All were trained for as many steps as the rest of the family; what gained too little on held-out images does not come
# with the package. Defocus is that of one scene, in one photograph or in two dual-pixel views, which are never mixed.

# %%
reached = files("evssm").joinpath("trained", "family.md").read_text("utf-8")
Markdown("\n## ".join(part for part in reached.split("\n## ") if part.startswith("Defocus")))

# %%
with torch.device("meta"):
    sizes = {name: sum(p.numel() for p in build(name).parameters()) for name in NAMES}
for name, numbers in sizes.items():
    weights = "trained" if f"{name}-compact" in bundled() else "fresh"
    print(f"{name:10} {numbers:>11,} parameters, small version {weights} here: {MODELS[name].summary}")

# %% [markdown]
# What they see below: a part of the scene, focused on its far wall; what is nearer is blurred.

# %%
window = (slice(200, 200 + EDGE), slice(88, 88 + EDGE))
photo, views = SINGLE[ITEM], DUAL[ITEM]
blurred, sharp, both = (image[(..., *window)] for image in (photo.blurred, photo.sharp, views.blurred))
circles = np.abs(SINGLE.circles(ITEM)[window])
figure, axes = plt.subplots(1, 3, figsize=(7, 2.4), layout="constrained")
for ax, image, title in zip(axes, (blurred, sharp), ("blurred", "sharp"), strict=False):
    ax.imshow(image.permute(1, 2, 0).numpy())
    ax.set_title(title, fontsize=9)
bar = figure.colorbar(axes[2].imshow(circles, cmap="cividis"), ax=axes[2])
axes[2].set_title("true blur circle [px]", fontsize=9)
for ax in axes:
    ax.set_axis_off()

# %% [markdown]
# ## Who is local?
#
# One pixel in the middle of a strip is made not-a-number; the columns of the output that turn so are the ones that it
# can reach, whatever the weights. DPDNet ends sharply: no norm, no mean, no attention. (Seen from the output, counted
# through its layers, a pixel reads 204 or 220 columns, by where it lies in the coarsest cells.) DeblurGAN's norms and
# the mean behind KPAC's gates reach everything; SRN and IFAN are local too, but wider than this strip.

# %%
strip = torch.rand(1, 3, 32, 512)
reaches = {name: structural_field(network(f"{name}-compact"), strip, (16, 256)).output for name in NAMES}
spans = {name: reach.box[3] - reach.box[2] + 1 for name, reach in reaches.items()}
figure, ax = plt.subplots(figsize=(6, 1.9), layout="constrained")
for row, reach in enumerate(reaches.values()):
    ax.barh(row, reach.box[3] - reach.box[2] + 1, left=reach.box[2] - 256.5, color="C0")
ax.set_yticks(range(len(spans)), [f"{name}: {span} of 512" for name, span in spans.items()], fontsize=8)
ax.set_xlabel("columns that a pixel reaches, from its own [px]")
ax.invert_yaxis()

# %% [markdown]
# ## SRN is three passes
#
# Each pass has its own field, at a quarter, at half and at full size; the coarser ones read every fourth and every
# second pixel, since SRN makes images small by leaving pixels out. Training stops the gradient of the image between the
# passes; through that stop the output seems to see its last pass alone.

# %%
stopped = network("srn-compact", stop_gradient="always")
through = network("srn-compact", stop_gradient="never")
passes = {
    "quarter": lambda x: doubled(doubled(stopped.pyramid(x)[0])),
    "half": lambda x: doubled(stopped.pyramid(x)[1]),
}
trained = not untrained(stopped)
fields = {
    name: effective_receptive_field(one, blurred, residual="include", trained=trained) for name, one in passes.items()
}
fields["full, stopped"] = effective_receptive_field(stopped, blurred)
fields["full, all passes"] = effective_receptive_field(through, blurred)
figure = erf_panels(fields)

# %% [markdown]
# ## DeblurGAN has a floor
#
# Its instance norms divide by a deviation over the whole image, so that every pixel has a share in every other. With
# those statistics held constant only the convolutions' field is left.

# %%
net = network("deblurgan-compact")
whole = effective_receptive_field(net, blurred)
with constant_statistics(net):
    local = effective_receptive_field(net, blurred)
figure = erf_panels({"DeblurGAN": whole, "statistics held": local})

# %%
for name, field in (("the norms as they are", whole), ("their statistics held", local)):
    print(f"{name}: {field.share_beyond(24):.2%} of the sensitivity lies beyond 24 px")

# %% [markdown]
# ## IFAN says which filters it applies
#
# For each pixel and channel at an eighth of the size it predicts a chain of filters of three taps, and on the way one
# channel that its authors train to be the disparity between two views. Here nothing but the restored image was
# trained, so that this channel may be anything. A filter that leaves a map as it is has the taps 0, 1, 0; the chain's
# distance from that, on average over channels and filters, says how much is done where. One whose taps are all 0 is 1
# away and passes nothing on.

# %%
net = network("ifan-compact")
with record(net, "disparity", "filters") as maps, torch.no_grad():
    net(blurred[None])
filters, width = maps["filters"].upright()[0], net.stages[0].channels * 4
taps = filters[: 17 * 6 * width].unflatten(0, (17, 2, width, 3))[:, 0]  # the second kernels are never read
effort = (taps - torch.tensor([0.0, 1, 0])[:, None, None]).abs().sum(2).mean((0, 1))
small = torch.nn.functional.avg_pool2d(torch.from_numpy(circles.copy())[None], 8)[0]
shown = {
    "true blur circle [px]": small,
    "filters' distance from 0, 1, 0": effort,
    "the channel called disparity": maps["disparity"].upright()[0, 0],
}
figure, axes = plt.subplots(1, 3, figsize=(7.5, 2.3), layout="constrained")
for ax, (title, values) in zip(axes, shown.items(), strict=True):
    plt.colorbar(ax.imshow(values.numpy(), cmap="cividis"), ax=ax)
    ax.set_title(title, fontsize=8)
    ax.set_axis_off()
    if untrained(net) and ax is not axes[0]:
        draw_untrained_badge(ax)
told = {f"IFAN's distance, {weights_of(net)}": effort}

# %% [markdown]
# ## KPAC says how much of each blur scale a pixel takes
#
# Five weights between 0 and 1 for the dilations 1 to 5 of its shared kernel, in its first block. Their mean, weighted
# by them, is the dilation that a pixel takes.

# %%
net = network("kpac-compact")
with record(net, "blocks.0.attention") as maps, torch.no_grad():
    net(blurred[None])
attention = maps["blocks.0.attention"].upright()[0]
dilations = torch.arange(1.0, 6)
taken = torch.einsum("d,dhw->hw", dilations, attention) / attention.sum(0)
figure, axes = plt.subplots(1, 6, figsize=(9, 1.9), layout="constrained")
for dilation, (ax, weights) in enumerate(zip(axes, attention, strict=False), 1):
    drawn = ax.imshow(weights.numpy(), vmin=0, vmax=1, cmap="viridis")
    ax.set_title(f"dilation {dilation}", fontsize=8)
bar = plt.colorbar(drawn, ax=axes[:5])
mean = plt.colorbar(axes[5].imshow(taken.numpy(), cmap="cividis"), ax=axes[5])
axes[5].set_title("dilation taken", fontsize=8)
for ax in axes:
    ax.set_axis_off()
    if untrained(net):
        draw_untrained_badge(ax)
told[f"KPAC's dilation, {weights_of(net)}"] = taken

# %% [markdown]
# Do the two follow the true blur? A correlation is worth a look only where there is something that varies.

# %%
for name, values in told.items():
    rank = spearmanr(values.flatten(), small.flatten()).statistic
    print(f"{name}: {values.min():.3f} to {values.max():.3f}, rank correlation with the true blur circle {rank:+.2f}")

# %% [markdown]
# And are they used? The same networks with what they predict for every pixel replaced by its mean over the photograph.

# %%
used = {}
for name, place in {"ifan-compact": "filters", "kpac-compact": "blocks.*.attention"}.items():
    net = network(name)
    with torch.no_grad():
        each = float(psnr(net(blurred[None]), sharp[None]))
        with edit(net, {place: lambda y: y.mean((-2, -1), keepdim=True).expand_as(y)}):
            same = float(psnr(net(blurred[None]), sharp[None]))
    used[f"{name} ({weights_of(net)})"] = each - same
    print(f"{name}, {weights_of(net)}: {each:.3f} dB with an answer for each pixel, {same:.3f} dB with one for all")

# %% [markdown]
# ## Without a network: a map of blur, then deconvolution
#
# EBDB, JNB and DMENet estimate how blurred each pixel is and deconvolve with that. Here with the true map, which the
# scene's disparity gives, and with one from the edges of the blurred photograph; beside it what trained networks make
# of the same cut.

# %%
sigmas = {
    "true map": sigma_of_circles(circles).astype("float64"),
    "map from edges": sigma_from_edges(blurred),
}
restored = {
    f"deconvolution, {name}": deblurred_by_map(blurred[None], sigma[None], kernel=disc_kernel, quantiles=6)[0]
    for name, sigma in sigmas.items()
}
defocus = [name for name in bundled() if "defocus" in str(load(name).provenance.data)]
with torch.no_grad():
    for name in defocus:
        seen = both if "dual-pixel" in name else blurred
        restored[name] = load(name)(seen[None])[0]
columns = 4
rows = -(-(2 + len(restored)) // columns)
figure, axes = plt.subplots(rows, columns, figsize=(9, 2.5 * rows), layout="constrained")
gains = {
    name: float(psnr(image[None], sharp[None]) - psnr(blurred[None], sharp[None])) for name, image in restored.items()
}
titles = ["sharp", "blurred", *(f"{name}\n{gain:+.2f} dB" for name, gain in gains.items())]
for ax, title, image in zip(axes.flat, titles, (sharp, blurred, *restored.values()), strict=False):
    ax.imshow(image.clamp(0, 1).permute(1, 2, 0).numpy())
    ax.set_title(title, fontsize=7)
for ax in axes.flat:
    ax.set_axis_off()

# %% [markdown]
# ## What to take from it

# %%
print(
    f"A pixel reaches {spans['dpdnet']} columns in DPDNet and not one more, and all of them in "
    f"{', '.join(name for name, span in spans.items() if span == 512)}.\n"
    f"SRN's last pass alone holds 90 % of its sensitivity within {fields['full, stopped'].radius(0.9):.0f} px, all "
    f"three within {fields['full, all passes'].radius(0.9):.0f} px.\n"
    f"DeblurGAN's norms put {whole.share_beyond(24) - local.share_beyond(24):.2%} of its sensitivity beyond 24 px."
)
for name, difference in used.items():
    print(f"That {name} answers for each pixel alone is worth {difference:+.3f} dB on this cut.")
for name, gain in gains.items():
    print(f"{name}: {gain:+.2f} dB on this cut.")
