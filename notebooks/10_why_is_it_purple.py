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
# # Why is it purple?
#
# Users of EVSSM report coloured blotches in restored photographs. `evssm trace` says in which stage of the network
# such an artefact begins. Does it? Here faults are made on purpose, one at a time, and the tracer, which is not told
# where, has to find them.

# %%
from copy import deepcopy
from itertools import permutations

import torch
from IPython.display import Markdown

from analysis import artefact_panels, trace
from analysis.artefacts import borders
from analysis.planted_faults import LIMIT, hunt_table, hunts, planted
from analysis.planted_faults_figure import hunt_panels
from analysis.scan_health import seam
from evssm import load
from evssm.data.embedded import embedded_test
from evssm.data.pairs import each
from evssm.images import crop_centre

PROFILE = "quick"  # or "paper": larger photographs and more sizes of fault, some five minutes
SIZE, FACTORS = {"quick": ((96, 128), (10, 100, 1000)), "paper": ((256, 320), (3, 10, 30, 100, 1000))}[PROFILE]
NETWORK = "evssm-compact"
SCAN = "decoder.1.0.mixer"

# %% [markdown]
# ## Nothing is wrong
#
# Photographs that the network was not trained on, blurred by a straight motion. What the stages reach on the second is
# taken for normal on the first.

# %%
net = load(NETWORK)
images = {pair.name: crop_centre(pair.blurred, *SIZE) for pair in each(embedded_test(extents=(12,), straight=True))}
traces = {name: trace(net, image) for name, image in images.items()}
(image, sound), (untouched, normal) = list(images.values())[:2], list(traces.values())[:2]
figure = artefact_panels(untouched, image, factor=LIMIT, normal=normal)

# %%
alarms = {(a, b): traces[a].first(LIMIT, traces[b]) for a, b in permutations(traces, 2)}
{f"{a} beside {b}": first.name if first else "nothing" for (a, b), first in alarms.items()}

# %% [markdown]
# ## One weight is wrong
#
# A single weight of one stage is made many times as large, as a broken file or an overflow might do it. This is done in
# every stage in turn: one example could be luck.

# %%
all_hunts = hunts(net, image, sound, factors=FACTORS)
figure = hunt_panels(all_hunts, [stage.name for stage in normal.stages])

# %%
Markdown(hunt_table(all_hunts))

# %% [markdown]
# Which of them colours the picture most? This is what its user sees, and what the tracer shows.

# %%
purple = max(all_hunts, key=lambda one: one.tint)
with planted(net, purple.stage, purple.factor):
    broken = trace(net, image)
print(f"planted in {purple.weight}, times {purple.factor:g}; the tracer says {purple.compared or 'nothing'}")
print("the mean colour moves by red {:+.2f}, green {:+.2f}, blue {:+.2f}".format(*purple.cast))
figure = artefact_panels(broken, image, factor=LIMIT, normal=normal)

# %% [markdown]
# ## The picture is wrong, not the network
#
# Values from 0 to 255 where 0 to 1 is meant, and a lamp that is twenty times as bright as white. If the very first
# stage is out of range, look at the input.

# %%
lamp = image.clone()
lamp[:, SIZE[0] // 2 - 4 : SIZE[0] // 2 + 4, SIZE[1] // 2 - 4 : SIZE[1] // 2 + 4] = 20
inputs = {"0 to 255": 255 * image, "a lamp": lamp}
firsts = {name: trace(net, x, states=False).first(LIMIT, normal) for name, x in inputs.items()}
{name: (first.name, f"around {first.where}") if first else "nothing" for name, first in firsts.items()}

# %% [markdown]
# ## A scan forgets
#
# The step sizes of one scan are raised until its steps wipe the state, so that nothing gathered is kept. That need not
# make any value large: look at the lower curve.

# %%
forgetful = deepcopy(net)
with torch.no_grad():
    forgetful.get_submodule(SCAN).dt_projs_bias += 20
wiped = trace(forgetful, image)
figure = artefact_panels(wiped, image, factor=LIMIT, normal=normal)

# %%
wipes = {stage.name: stage.scan.wipes for stage in wiped.stages if stage.scan}
forgets = max(wipes, key=lambda name: wipes[name] - next(s.scan.wipes for s in normal.stages if s.name == name))
out_of_range = wiped.first(LIMIT, normal)
print(f"raised in {SCAN}; steps that wipe rise most in {forgets}, to {wipes[forgets]:.0%} of all")
print(f"by size the tracer says {out_of_range.name if out_of_range else 'nothing'}")

# %% [markdown]
# ## Seams of windows
#
# Test-time windows may leave seams, most of all where they are smaller than those in training. How much stronger does
# the output change across their borders than beside them, and how much does it there without windows?

# %%
EDGES = (32, 16, 8)
windowed = trace(load(NETWORK, local=EDGES), image, states=False)
lines = [borders(side, EDGES[0]) for side in SIZE]
seams = {
    name: seam(torch.from_numpy(run.output)[None], *lines)
    for name, run in {"whole map": untouched, f"windows of {EDGES[0]} px": windowed}.items()
}
strongest = max((stage for stage in windowed.stages if stage.seam is not None), key=lambda stage: stage.seam)
{**{name: round(value, 2) for name, value in seams.items()}, f"inside, {strongest.name}": round(strongest.seam, 2)}

# %% [markdown]
# ## What to take from it

# %%
faults, small = ([one for one in all_hunts if one.factor == factor] for factor in (max(FACTORS), min(FACTORS)))
first_stage = normal.stages[0].name
print(
    f"Beside a sound photograph the tracer named the broken stage for {sum(one.right for one in faults)} of "
    f"{len(faults)} weights made {max(FACTORS)} times as large, and for {sum(one.right for one in small)} of "
    f"{len(small)} made {min(FACTORS)} times as large; by the image alone for "
    f"{sum(one.right_alone for one in faults)} and {sum(one.right_alone for one in small)}.\n"
    f"Without a fault it named one for {sum(first is not None for first in alarms.values())} of {len(alarms)} pairs of "
    f"photographs.\n"
    f"Inputs out of range showed in the first stage for "
    f"{sum(first is not None and first.name == first_stage for first in firsts.values())} of {len(firsts)}.\n"
    f"The scan that forgets was {'found' if forgets == SCAN else 'not found'} by its steps and "
    f"{'found' if out_of_range and out_of_range.name == SCAN else 'not found'} by its size.\n"
    f"Across the windows' borders the output changes {seams[f'windows of {EDGES[0]} px']:.2f} times as much as beside "
    f"them at most, and {seams['whole map']:.2f} times there without windows."
)
