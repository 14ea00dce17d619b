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
# # What does this pixel see?
#
# An explorer answers for whatever pixel is pointed at: what it gathers in every module, its effective receptive field,
# what a region around it is made of. Here it is used without a screen first; the last cells show it with one, where a
# click is enough. `evssm explore` opens the same as a page.

# %%
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp

from analysis import Explorer

NETWORKS = ("evssm-compact", "evssm-no-geot-compact")
IMAGE = "chelsea-blurred"

# %% [markdown]
# It opens the bundled photographs and networks by name; images and networks of one's own are functions that open them.

# %%
explorer = Explorer(image=IMAGE, networks=NETWORKS)
explorer.panel

# %% [markdown]
# A click chooses a pixel. The networks run once on the image; from then on every pixel's rows follow from what is kept.

# %%
explorer.click(40, 70)
figure = explorer.figure()

# %% [markdown]
# Is that true? Each row must rebuild what its scan returns.

# %%
explorer.checks()

# %% [markdown]
# Another pixel, as an arrow key would choose it, and how much of what it gathers lies before it in reading order: above
# it, or left of it in its own row.

# %%
rows = explorer.rows(explorer.move(-16, 8))


def share_before(row):
    field, (r, c) = row.map[row.inside], row.cell
    return float((field[:r].sum() + field[r, : c + 1].sum()) / field.sum())


before = {name: [share_before(row) for row in of_one.values()] for name, of_one in rows.items()}
{name: [round(share, 2) for share in shares] for name, shares in before.items()}

# %% [markdown]
# The receptive field there, both networks on one scale, in the frame of the image.

# %%
figure = explorer.figure(replace(explorer.panel, view="field"))

# %% [markdown]
# What the panel shows can be saved with the command that makes it again.

# %%
[path.name for path in explorer.save(Path(mkdtemp()) / "panel")], explorer.command("panel")

# %% [markdown]
# ## With a screen
#
# In JupyterLab, click the image, drag a box, press the arrow keys. (This needs the optional packages of
# `pip install "evssm-lab[explore]"`; where they are missing, the cell says so. Where no kernel runs, it shows nothing
# that can be clicked.)

# %%
if find_spec("ipympl"):
    from analysis.explorer_view import ExplorerView

    shown = ExplorerView(explorer).widget
else:
    shown = "not installed here: pip install 'evssm-lab[explore]'"
shown

# %% [markdown]
# ## What to take from it

# %%
row, column = explorer.panel.query
for name, shares in before.items():
    print(
        f"{name}: of what pixel {row}, {column} gathers, {min(shares):.0%} to {max(shares):.0%} lies before it in "
        f"reading order, module by module ({len(shares)} modules, one image)."
    )
