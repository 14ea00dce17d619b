"""The training loop (Lightning Fabric moves it to devices and joins processes; on a CPU it is plain PyTorch)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import save as serialised
from torch import Tensor, nn
from torch.utils.data import DataLoader

from evssm.data.pairs import Pair, Pairs
from evssm.loss import deblurring_loss
from evssm.metrics import psnr
from evssm.models import build
from evssm.provenance import claimed, sha256_of, written_whole
from evssm.shapes import Image
from evssm.training.checkpoint import Checkpoint
from evssm.training.journal import Journal
from evssm.training.optimisation import RunningMean, learning_rate, start_as_identity
from evssm.training.recipes import TrainConfig
from evssm.weights import load

Views = Float[Tensor, "b views h w"]
"""What a network is given: an image, or the two views of a dual-pixel sensor in its channels."""

Report = Callable[[int, int, dict[str, float]], object]
"""Told after every step: steps done, steps in all, and the latest loss, PSNR and gain."""

LOGGED_WHOLE, LOGGED_EVERY = 50, 10
"""The first steps are logged one and all, so that a rerun can be held against them; of the rest, every tenth."""

CHECKPOINT, LOG, VALIDATION, BAD_BATCH = "checkpoint.pt", "log.csv", "validation.csv", "bad_batch.safetensors"


class Outcome(NamedTuple):
    """A network, the running mean of its weights where there is one, after so many steps; every process has it, and
    `first` is the one that writes."""

    net: nn.Module
    steps: int
    first: bool = True


def train(
    name: str,
    crops: Pairs,
    validation: Pairs,
    config: TrainConfig,
    folder: Path,
    *,
    seed: int = 0,
    data: str = "unnamed",
    overrides: dict[str, Any] | None = None,
    start: Path | None = None,
    stop_after: int | None = None,
    report: Report | None = None,
    say: Callable[[str], object] | None = None,
    **fabric: Any,
) -> Outcome:
    """The trained network; `folder` holds the run's logs, and its state, from which an interrupted run goes on.

    `crops` maps a number to a pair of equal crops; step s takes the numbers from `s * batch` on. `validation` pairs
    are scored whole, without augmentation. `data` describes both in words and is part of the run's identity, as are
    the network, the settings and the seed: a folder with a checkpoint of another run is refused. `start` is a file of
    weights to begin with, as the paper's second stage begins with the first's; the optimiser begins anew. `stop_after`
    ends the sitting after so many steps (and returns the network as it is then). `fabric` are arguments of Lightning's
    `Fabric` (accelerator, devices, num_nodes, precision): with several devices it starts as many processes, unless
    `torchrun` or SLURM did; each takes its part of every batch. The result of a run on one CPU thread is the same bit
    for bit however often it was interrupted, and so is that of two processes. `say` is told after which step a run
    goes on. The caller's random state is left as it was.

    Raises `ValueError` where another run is at work in `folder`, and `FloatingPointError` where the loss or its
    gradient is no longer finite; the batch is then kept in `folder`.
    """
    from lightning_fabric import Fabric

    engine = Fabric(**{"accelerator": "cpu", "devices": 1, **fabric})
    engine.launch()
    first = engine.is_global_zero
    run = {"network": name, "overrides": overrides or {}, "seed": seed, "data": data, **config.as_dict()}
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(), claimed(folder) if first else nullcontext():
        torch.manual_seed(seed)
        net = build(name, **(overrides or {}))
        if start is not None:
            begun = load(start, name=name, **(overrides or {}))
            net.load_state_dict(begun.state_dict())
            run["start"] = sha256_of(begun.state_dict())
        elif config.start_as_identity:
            start_as_identity(net)
        sitting = _Sitting(engine, net, config, folder, run)
        if say and first and sitting.done:
            say(f"{folder} goes on after step {sitting.done} of {config.steps}, its last checkpoint")
        last = min(config.steps, sitting.done + stop_after) if stop_after else config.steps
        sitting.train(crops, validation, last, report)
    return Outcome(sitting.mean.net.eval(), sitting.done, first)


class _Sitting:
    """One uninterrupted part of a run."""

    def __init__(self, engine: Any, net: nn.Module, config: TrainConfig, folder: Path, run: dict[str, Any]) -> None:
        self.engine, self.config, self.folder, self.run = engine, config, folder, run
        self.mean = RunningMean(net, config.average)
        optimiser = torch.optim.AdamW(
            net.parameters(), lr=config.rate, betas=config.betas, weight_decay=config.weight_decay
        )
        path = folder / CHECKPOINT
        self.done = 0
        if path.exists():
            state = Checkpoint.load(path, run)
            net.load_state_dict(state.net)
            self.mean.net.load_state_dict(state.mean)
            optimiser.load_state_dict(state.optimiser)
            self.done = state.step
        self.plain = net
        self.net, self.optimiser = engine.setup(_AllScales(net), optimiser)
        self.mean.net.to(engine.device)
        if engine.is_global_zero:
            self.log = Journal(folder / LOG, ("rate", "loss", "gradient"), done=self.done)
            self.scores = Journal(folder / VALIDATION, ("psnr", "gain"), done=self.done)

    def train(self, crops: Pairs, validation: Pairs, last: int, report: Report | None) -> None:
        latest: dict[str, float] = {}
        for step, (blurred, sharp) in zip(range(self.done, last), self._batches(crops, last), strict=True):
            rate = learning_rate(self.config, step)
            loss, size = self._step(step, rate, blurred, sharp)
            self.done = step + 1
            self.mean.update(self.plain, step)
            latest["loss"] = loss
            if self.engine.is_global_zero and (self.done <= LOGGED_WHOLE or self.done % LOGGED_EVERY == 0):
                self.log.add(self.done, {"rate": rate, "loss": loss, "gradient": size})
            if self.done % self.config.validate_every == 0 or self.done == self.config.steps:
                latest |= self._validate(validation)
            if self.done % self.config.checkpoint_every == 0 or self.done == last:
                self._save()
            if report is not None:
                report(self.done, self.config.steps, latest)

    def _batches(self, crops: Pairs, last: int) -> Iterator[tuple[Views, Image]]:
        """This process's part of every batch that is left, blurred and sharp."""
        world, rank = self.engine.world_size, self.engine.global_rank
        if self.config.batch % (world * self.config.accumulate):
            raise ValueError(
                f"a batch of {self.config.batch} does not divide among {world} processes with "
                f"{self.config.accumulate} parts each"
            )
        numbers = range(self.done * self.config.batch + rank, last * self.config.batch, world)
        loader: Any = DataLoader(
            crops,  # type: ignore[arg-type]  # addressed by number, as DataLoader asks, though no subclass of Dataset
            self.config.batch // world,
            sampler=numbers,
            collate_fn=_stacked,
        )
        yield from self.engine.setup_dataloaders(loader, use_distributed_sampler=False)

    def _step(self, step: int, rate: float, blurred: Views, sharp: Image) -> tuple[float, float]:
        """The loss and the gradient's norm before it is cut; both belong to the weights before this step."""
        config, parts = self.config, self.config.accumulate
        torch.manual_seed((self.run["seed"] << 32) + step * self.engine.world_size + self.engine.global_rank)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.net.train()
        total = 0.0
        for i, (x, y) in enumerate(zip(blurred.chunk(parts), sharp.chunk(parts), strict=True)):
            with self.engine.no_backward_sync(self.net, enabled=i < parts - 1):
                loss = _loss(self.net, x, y, config) / parts
                self.engine.backward(loss)
            total += loss.item()
        if self.engine.world_size > 1:  # each has seen its part of the batch
            parts_of_all = torch.tensor(total, dtype=torch.float64, device=self.engine.device)
            total = float(self.engine.all_reduce(parts_of_all, reduce_op="mean"))
        size = self.engine.clip_gradients(self.net, self.optimiser, max_norm=config.clip, error_if_nonfinite=False)
        if not (math.isfinite(total) and torch.isfinite(size)):
            self._keep(step, blurred, sharp)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return total, float(size)

    def _keep(self, step: int, blurred: Views, sharp: Image) -> None:
        """Stops the run, with the batch and the weights that broke it beside its checkpoint."""
        rank = self.engine.global_rank
        path = self.folder / (f"rank{rank}_{BAD_BATCH}" if rank else BAD_BATCH)
        weights = {f"net.{key}": value.detach().cpu().contiguous() for key, value in self.plain.state_dict().items()}
        content = serialised({"blurred": blurred.cpu().contiguous(), "sharp": sharp.cpu().contiguous(), **weights})
        with written_whole(path) as part:
            part.write_bytes(content)
        raise FloatingPointError(
            f"the loss or its gradient is not finite at step {step + 1}; {path} keeps the batch and the weights; "
            "look at the batch, or lower the learning rate and start anew in another folder"
        )

    def _validate(self, pairs: Pairs) -> dict[str, float]:
        """Mean PSNR of the whole images, and by how much it exceeds that of the blurred ones, dB."""
        if not self.engine.is_global_zero or not len(pairs):
            return {}
        net, device = self.mean.net, self.engine.device
        was = net.training
        net.eval()
        scores, gains = [], []
        for i in range(len(pairs)):
            x, y = (image[None].to(device) for image in pairs[i][:2])
            with torch.no_grad():
                score = psnr(net(x), y).item()
            scores.append(score)
            gains.append(score - psnr(x, y).item())
        net.train(was)
        found = {"psnr": sum(scores) / len(scores), "gain": sum(gains) / len(gains)}
        self.scores.add(self.done, found)
        return found

    def _save(self) -> None:
        if self.engine.is_global_zero:
            optimiser = self.optimiser.optimizer.state_dict()
            state = self.plain.state_dict()
            mean = self.mean.net.state_dict() if self.config.average else state
            Checkpoint(self.run, self.done, state, mean, optimiser).save(self.folder / CHECKPOINT)
        self.engine.barrier()


def _stacked(pairs: list[Pair]) -> tuple[Tensor, Tensor]:
    return torch.stack([pair.blurred for pair in pairs]), torch.stack([pair.sharp for pair in pairs])


class _AllScales(nn.Module):
    """Every image that training compares: MIMO-UNet's three, coarsest first, or the one of all others."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Views) -> tuple[Tensor, ...]:
        pyramid = getattr(self.net, "pyramid", None)
        return (self.net(x),) if pyramid is None else pyramid(x)


def _loss(net: Callable[[Views], tuple[Tensor, ...]], blurred: Views, sharp: Image, config: TrainConfig) -> Tensor:
    """The sum over the scales that `net` restores; coarser targets are reduced bilinearly (Cho et al. 2021)."""
    losses = []
    for restored in net(blurred):
        size = restored.shape[-2:]
        same = size == sharp.shape[-2:]
        target = sharp if same else F.interpolate(sharp, size=size, mode="bilinear", align_corners=False)
        weight, scaling = config.frequency_weight, config.scaling
        losses.append(deblurring_loss(restored, target, frequency_weight=weight, scaling=scaling))
    return torch.stack(losses).sum()
