"""Learning-rate schedules: PyTorch's, stepped once an update."""

import warnings

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, LRScheduler, StepLR

from fgcli.extend.options import Options
from fgcli.training.options import CosineOptions, LinearWarmupOptions, StepOptions


def constant(options: Options, optimizer: Optimizer, total_steps: int, steps_per_epoch: int) -> LRScheduler:
    """The learning rate as it is given."""
    return ConstantLR(optimizer, factor=1.0, total_iters=0)


def cosine(options: CosineOptions, optimizer: Optimizer, total_steps: int, steps_per_epoch: int) -> LRScheduler:
    """lr_t = min_lr + (lr - min_lr) (1 + cos(π t / total_steps)) / 2, after t updates."""
    return CosineAnnealingLR(optimizer, T_max=total_steps, eta_min=options.min_lr)


def step(options: StepOptions, optimizer: Optimizer, total_steps: int, steps_per_epoch: int) -> LRScheduler:
    """lr_t = lr · gamma^⌊epoch / step_size⌋."""
    return StepLR(optimizer, options.step_size * steps_per_epoch, options.gamma)


def linear_warmup(
    options: LinearWarmupOptions, optimizer: Optimizer, total_steps: int, steps_per_epoch: int
) -> LRScheduler:
    """lr_t = lr · min(1, (t + 1) / steps), after t updates."""
    return LinearLR(optimizer, start_factor=1 / options.steps, total_iters=options.steps - 1)


def advance(schedule: LRScheduler, steps: int = 1) -> None:
    """Step a schedule, as after `steps` updates. One that was left out counts: the rate depends on the step alone."""
    with warnings.catch_warnings():  # of updates that the optimiser has not made
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
        for _ in range(steps):
            schedule.step()
