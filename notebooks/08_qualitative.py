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
# # Can one see which network is better?
#
# The supplement's Figs. 7-12 put details of restored photographs side by side. Here the project's small trained
# networks stand side by side in the same way, each detail above its errors: first those for motion, then those for
# defocus, of one view and of two apart. None of this is a result of a paper.

# %%
from IPython.display import Markdown
from matplotlib import pyplot as plt

from analysis import comparison_panels, restore
from analysis.comparison import comparison_table, most_blurred_box
from analysis.tasks import DEFOCUS, DUAL_PIXEL, MOTION, ONE_SCENE, task_of
from evssm import load
from evssm.data.embedded import embedded_test
from evssm.data.motorcycle import DefocusTest
from evssm.data.pairs import Pair, each
from evssm.images import crop_centre
from evssm.weights import bundled

PROFILE = "quick"  # or "paper": larger pictures and longer motions, some ten minutes
SIZE, DETAIL, EXTENTS = {"quick": (160, 44, (12,)), "paper": (256, 64, (12, 24, 40))}[PROFILE]
SETTINGS = {"quick": (1,), "paper": (1, 4, 7)}[PROFILE]

# %% [markdown]
# Every network that comes trained with the package, one seed of each.

# %%
trained = {name: load(name) for name in bundled() if "-seed" not in name}
nets = {name: net for name, net in trained.items() if task_of(net) == MOTION}
{name: f"{net.provenance.steps} steps, {net.provenance.data}" for name, net in trained.items()}

# %% [markdown]
# Photographs that none of them was trained on, blurred by a straight motion.

# %%
test = embedded_test(extents=EXTENTS, straight=True)
pairs = [Pair(crop_centre(p.blurred, SIZE, SIZE), crop_centre(p.sharp, SIZE, SIZE), p.name) for p in each(test)]
comparisons = [restore(nets, pair) for pair in pairs]
[(one.pair.name, f"blurred {one.blurred_psnr():.2f} dB") for one in comparisons]

# %% [markdown]
# The detail is chosen by the data before any network has run: the square in which the motion changed most. Nobody
# picked it because a network looks good there.

# %%
boxes = [most_blurred_box(pair, DETAIL) for pair in pairs]
for one, box in zip(comparisons, boxes, strict=True):
    figure = comparison_panels(one, box)

# %% [markdown]
# ## Numbers beside the pictures

# %%
Markdown(comparison_table(comparisons))

# %% [markdown]
# The same as a share: how much of the squared error is gone?

# %%
figure, ax = plt.subplots(figsize=(6, 0.6 + 0.22 * len(nets)), layout="constrained")
for one, marker in zip(comparisons, "osD^v<>ph" * len(comparisons), strict=False):
    removed = one.removed()
    ax.plot([100 * share for share in removed.values()], list(removed), marker, label=one.pair.name, markersize=4)
ax.axvline(0, color="0.7", linewidth=0.8)
ax.set_xlabel("squared error of the blurred image that is gone [%]")
ax.invert_yaxis()
legend = ax.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))

# %% [markdown]
# ## Out of focus
#
# Networks for defocus on a part of their scene that none has seen, the square chosen in the same way: those that see
# one photograph, and in pictures of their own those that see the two views of a dual-pixel sensor.

# %%
single, dual = DefocusTest(), DefocusTest(dual_pixel=True)
out_of_focus = {}
for task in (DEFOCUS, DUAL_PIXEL):
    chosen = {name: net for name, net in trained.items() if task_of(net) == task}
    for i in SETTINGS if chosen else ():
        blurred, sharp, both = (crop_centre(x, SIZE, SIZE) for x in (*single[i][:2], dual[i].blurred))
        one = restore(chosen, Pair(blurred, sharp, single[i].name), views=both if task == DUAL_PIXEL else None)
        out_of_focus.setdefault(task, []).append(one)
for found in out_of_focus.values():
    for one in found:
        figure = comparison_panels(one, most_blurred_box(one.pair, DETAIL))

# %%
told = [f"**{task}**\n\n{comparison_table(found)}" for task, found in out_of_focus.items()]
Markdown("\n\n".join([*told, ONE_SCENE]) if told else "No network for defocus comes with the package.")

# %% [markdown]
# ## What to take from it

# %%
gains = {name: [one.gains()[name] for one in comparisons] for name in nets}
means = {name: sum(values) / len(values) for name, values in gains.items()}
best, worst = max(means, key=means.get), min(means, key=means.get)
winners = {max(one.gains(), key=one.gains().get) for one in comparisons}
harmed = [f"{name} on {one.pair.name}" for one in comparisons for name, gain in one.gains().items() if gain < 0]
left = 1 - max(max(one.removed().values()) for one in comparisons)
print(
    f"Mean gains lie between {means[worst]:+.2f} dB ({worst}) and {means[best]:+.2f} dB ({best}), "
    f"{means[best] - means[worst]:.2f} dB apart.\n"
    f"Best on a picture: {', '.join(sorted(winners))} ({len(winners)} network(s) on {len(comparisons)} pictures).\n"
    f"Worse than the blurred image: {', '.join(harmed) or 'none'}.\n"
    f"Where a network removes most, {left:.0%} of the squared error is still there."
)
