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
# # Do the paper's ablations show in small networks?
#
# Published numbers and those of the compact family stand side by side, never in one column: the networks differ by far
# in size, data and training. What can be compared is the direction of an effect. This notebook scores the middles of a
# few held-out photographs; `evssm ablate` scores them whole and is what to quote.

# %%
from pathlib import Path
from tempfile import mkdtemp

from IPython.display import Markdown

from analysis.ablate import measure
from analysis.ablation_panel import effect_panel
from analysis.ablation_table import ablation_table, verdicts
from analysis.ablations import ABLATIONS
from analysis.tasks import MOTION
from evssm.data.embedded import embedded_test
from evssm.data.pairs import Pair, each
from evssm.images import crop_centre
from evssm.metrics import Protocol
from evssm.weights import bundled

PROFILE = "quick"  # or "paper": larger middles, some five minutes
SIZE = {"quick": 128, "paper": 256}[PROFILE]
DATA = f"straight motion of 6, 12 and 24 px on held-out photographs, middles of {SIZE} px"

# %%
pairs = [
    Pair(crop_centre(p.blurred, SIZE, SIZE), crop_centre(p.sharp, SIZE, SIZE), p.name)
    for p in each(embedded_test(extents=(6, 12, 24), straight=True))
]
len(pairs), pairs[0].name, tuple(pairs[0].blurred.shape)

# %% [markdown]
# Scores of every bundled network that a table asks for; methods without one keep their published numbers. Table 13, on
# defocus, is in notebook 06.

# %%
kept = Path(mkdtemp())
scored = {}
motion = {name: ablation for name, ablation in ABLATIONS.items() if ablation.task == MOTION}
for name, ablation in motion.items():
    found = {method.label: measure(method, bundled(), pairs, DATA, kept) for method in ablation.methods}
    scored[name] = {label: one for label, one in found.items() if one is not None}
{name: list(found) for name, found in scored.items()}


# %%
def table(name):
    return Markdown(ablation_table(ABLATIONS[name], scored[name], data=DATA, protocol=Protocol().describe()))


table("transforms")

# %%
table("ensemble")

# %%
table("kernel")

# %%
table("mamba2")

# %%
claims = {name: verdicts(ABLATIONS[name], found) for name, found in scored.items()}
drawn = [effect_panel(ABLATIONS[name], found, scored[name]) for name, found in claims.items() if found]

# %% [markdown]
# ## Which of the published effects show here?

# %%
for name, found in claims.items():
    print(f"{ABLATIONS[name].title}: {'; '.join(map(str, found)) or 'too few of its networks are bundled'}")
