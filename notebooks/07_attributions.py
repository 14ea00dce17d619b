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
# # Which pixels made this detail, and should one believe the map?
#
# Attribution methods colour the pixels that a region of the output is made of. They need not agree, and a picture does
# not say which of them is right. So each map is put to three tests: does it add up, does its order of importance hold
# when pixels are really replaced, and does it change when the network forgets what it has learnt?

# %%
from IPython.display import Markdown
from matplotlib import pyplot as plt

from analysis import attribution_panels, local_attribution
from analysis.attribution_figure import NAMES
from analysis.attribution_table import attribution_table
from analysis.attribution_verdict import ELSEWHERE, check_attributions
from analysis.attributions import METHODS
from analysis.check_panels import check_panels
from analysis.comparison import most_blurred_box
from evssm import load
from evssm.data.embedded import embedded_test
from evssm.data.pairs import Pair

PROFILE = "quick"  # or "paper": a larger photograph and longer integrals, some twenty minutes
SIZE, STEPS, COUNTS, CHECK = {
    "quick": (48, 8, (2, 4, 8, 16), {"batch": 8, "depth": 2, "draws": 2}),
    "paper": (160, 50, (2, 4, 8, 16, 32, 64, 128), {"draws": 5}),
}[PROFILE]
NETWORK = "evssm-compact"

# %% [markdown]
# The part of a photograph that a straight motion of 12 pixels changed most, and the region in it of which the same is
# true; the network was not trained on it. What is explained is what the network adds to its input, not the input.

# %%
net = load(NETWORK)
pair = embedded_test(extents=(12,), straight=True)[0]
top, left, *_ = most_blurred_box(pair, SIZE)
pair = Pair(*(whole[:, top : top + SIZE, left : left + SIZE] for whole in (pair.blurred, pair.sharp)), pair.name)
image, box = pair.blurred, most_blurred_box(pair, SIZE // 6)
options = {"residual": "exclude", "steps": STEPS, "window": SIZE // 4}
found = {method: local_attribution(net, image, box, method=method, **options) for method in METHODS}
list(found.values())

# %% [markdown]
# ## The maps

# %%
figure = attribution_panels({NETWORK: found}, image)

# %% [markdown]
# ## Does it add up?
#
# The contributions should sum to what the region's number changes by between the baseline and the image. Integrals
# along a path come to that with more steps; the others have nothing that they could refine.

# %%
gaps = {
    method: [
        local_attribution(net, image, box, method=method, **{**options, "steps": steps}).completeness_gap
        for steps in COUNTS
    ]
    for method in ("integrated_gradients", "lam")
}
figure, ax = plt.subplots(figsize=(5, 2.8), layout="constrained")
for method, values in gaps.items():
    ax.loglog(COUNTS, values, ".-", label=NAMES[method])
for method in [method for method in METHODS if method not in gaps]:
    ax.axhline(found[method].completeness_gap, color="0.5", linestyle=":", linewidth=0.9)
    ax.annotate(NAMES[method], (COUNTS[0], found[method].completeness_gap), va="bottom", fontsize=7, color="0.4")
ax.set(xlabel="gradients along the path", ylabel="completeness gap", xticks=COUNTS, xticklabels=COUNTS)
ax.minorticks_off()
ax.margins(y=0.15)
legend = ax.legend(fontsize=7)

# %% [markdown]
# ## Is the order of importance true, and is it learnt?
#
# Pixels are replaced by the method's own baseline in the order of its map, and put back; the region must follow faster
# than with the nearest pixels first, and faster than by chance. Other regions are asked alike, since one has no
# interval. Then the weights are redrawn, from the output to the input: a map that stays as it was shows the
# architecture or the picture, not what was learnt.

# %%
verdicts = check_attributions(net, image, found, **CHECK)
figure = check_panels({NAMES[method]: verdict for method, verdict in verdicts.items()}, {})

# %%
Markdown(attribution_table(found, verdicts))

# %% [markdown]
# ## What to take from it

# %%
beyond = [NAMES[m] for m, verdict in verdicts.items() if verdict.order.word == "shown, beyond distance"]
chance = [NAMES[m] for m, verdict in verdicts.items() if verdict.order.verdict("random").word == "shown"]
learnt = [NAMES[m] for m, verdict in verdicts.items() if verdict.weights.word == "depends on the weights"]
index = {NAMES[m]: one.diffusion_index for m, one in found.items()}
print(
    f"{NETWORK}, a region and up to {ELSEWHERE} more on one photograph of {SIZE} px.\n"
    f"Orders that beat nearest first: {', '.join(beyond) or 'none'}.\n"
    f"Orders that beat chance: {', '.join(chance) or 'none'}.\n"
    f"Maps that depend on the weights: {', '.join(learnt) or 'none'}.\n"
    f"The diffusion index of the same region is {min(index.values()):.1f} ({min(index, key=index.get)}) to "
    f"{max(index.values()):.1f} ({max(index, key=index.get)}): it belongs to a method, not to a network alone."
)
