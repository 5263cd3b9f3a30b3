"""A run in several processes: joining them, what is refused of it, and the loss of one."""

import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist

from fgcli.cores import refuse_crowded
from fgcli.devices import list_devices, resolve_device
from fgcli.errors import RunError, UsageError
from fgcli.gradient.errors import OptionRefused
from fgcli.gradient.processes import ALONE, Processes, digest_of
from fgcli.recipe import dump
from fgcli.recipe_keys import Recipe
from fgcli.runs.meeting import GONE, Rank
from fgcli.training.assembly import Assembly
from fgcli.training.environment import digest
from fgcli.training.interrupts import ENDING

Join = Callable[[Recipe], Processes]
"""What makes the processes of a run, once its settled recipe is known."""


class PeerLost(RunError):
    """Another process of the run is gone."""

    exit_code = GONE


def alone(recipe: Recipe) -> Processes:
    """No others."""
    return ALONE


def joining(rank: Rank) -> Join:
    """What joins the others. UsageError for a recipe that so many processes cannot train."""

    def join(recipe: Recipe) -> Processes:
        _refuse(recipe, rank)
        if rank.meeting is not None and sys.platform == "linux":
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all are here
        device = resolve_device(recipe.device)
        if device.type == "cuda":
            torch.cuda.set_device(rank.local_rank)
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            init_method="env://" if rank.meeting is None else f"file://{rank.meeting.folder / 'store'}",
            rank=rank.rank,
            world_size=rank.size,
            timeout=timedelta(days=7),  # the first may evaluate for long, while the others wait
        )
        if rank.rank:  # the first decides when a run stops; without it, a collective fails here
            for number in ENDING:
                signal.signal(number, signal.SIG_IGN)
        return Processes(dist.group.WORLD)

    return join


def leave() -> None:
    """Leave the group. The threads of one that is left standing may abort Python as it ends (SIGABRT)."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _refuse(recipe: Recipe, rank: Rank) -> None:
    said = f"--processes is {rank.size}"
    if rank.size > recipe.batch_size:
        raise UsageError(f"{said}; it must be at most {recipe.batch_size}, the samples of a batch (--batch-size)")
    if rank.size > 1 and recipe.micro_batch is not None:
        raise UsageError(f"{said} and --micro-batch {recipe.micro_batch}; leave --micro-batch out")
    refuse_crowded("--nproc-per-node", rank.local_size, recipe.threads or 1)  # of torchrun; fg's launcher has looked
    device, present = resolve_device(recipe.device), list_devices()
    if rank.size > 1 and device.type == "mps":
        raise UsageError(f"{said} and the device mps, of which there is one; use --device cpu")
    if rank.size > 1 and device.type == "cuda" and (device.index or rank.local_size > len(present) - 1):
        raise UsageError(
            f"{said} and the device {recipe.device}; each process takes a GPU of its own from cuda:0 on, and present "
            f"are {', '.join(present)}: fewer --processes, or --device cpu"
        )


def agree(assembly: Assembly, step: int) -> None:
    """UsageError where the processes are not about to train the same."""
    if assembly.processes.size == 1:
        return
    recipe = assembly.recipe.model_copy(update={"device": "cpu", "threads": None})
    state = assembly.estimator.state() if step else {}
    same = {
        "recipe": dump(recipe),
        "training set": digest(assembly.dataset),
        "set of weights": digest_of(assembly.model.state_dict().values()),
        "checkpoint": f"{step} {sorted(state)} {digest_of(state[name] for name in sorted(state))}",
        "version of torch": torch.__version__,
    }
    try:
        assembly.processes.agree(same, assembly.device)
    except OptionRefused as refusal:
        raise UsageError(f"--processes is {assembly.processes.size}: {refusal}") from refusal
