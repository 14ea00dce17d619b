"""The optimiser's schedule, and the running mean of weights."""

from copy import deepcopy
from math import cos, pi

import torch
from torch import nn

from evssm.models.stages import stages
from evssm.training.recipes import TrainConfig


def learning_rate(recipe: TrainConfig, step: int) -> float:
    """The rate of optimiser step `step` (the first is 0): linear up to `rate`, then half a cosine to `last_rate`."""
    if step < recipe.warmup:
        return recipe.rate * (step + 1) / (recipe.warmup + 1)
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.last_rate + (recipe.rate - recipe.last_rate) * (1 + cos(pi * done)) / 2


def start_as_identity(net: nn.Module) -> None:
    """Sets the last convolution of every image that `net` puts out to zero: it then returns its input.

    Without it, the first hundreds of steps go into unlearning what random weights add to the image. A network that says
    it adds no input (`adds_input = False`) cannot start so, and keeps the weights that it has.
    """
    if not getattr(net, "adds_input", True):
        return
    for stage in stages(net):
        if stage.channels == 3:
            last = [part for part in net.get_submodule(stage.name).modules() if isinstance(part, nn.Conv2d)][-1]
            nn.init.zeros_(last.weight)
            if last.bias is not None:
                nn.init.zeros_(last.bias)


class RunningMean:
    """The weights' exponential mean: what they were `1 / (1 - decay)` steps ago weighs a third of today's.

    In the first steps the decay is lower, `(1 + step) / (10 + step)`, so that the start is forgotten. A decay of 0 is
    the weights themselves.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.decay = decay
        self.net = deepcopy(net).requires_grad_(False) if decay else net

    def update(self, net: nn.Module, step: int) -> None:
        if self.decay:
            share = 1 - min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(self.net.parameters()), [p.detach() for p in net.parameters()], share)
