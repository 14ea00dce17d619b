"""Names for the tensor shapes that most signatures share.

The axis letters are the field's: `b` batch, `c` channels, `h w` image rows and columns, `l = h w` scan steps, `d`
inner channels of a scan, `n` states per channel, `g` groups that share B and C.
"""

from jaxtyping import Float
from torch import Tensor

Image = Float[Tensor, "b c h w"]
"""Batch of images or feature maps; images are RGB in [0, 1]."""

Map = Float[Tensor, "b _ _ _"]
"""A feature map of the same batch with other channels or another size."""

Maps = Float[Tensor, "_ c _ _"]
"""Feature maps of the same channels in another batch: windows, for one."""
