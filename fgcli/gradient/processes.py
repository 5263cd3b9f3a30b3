"""One batch estimated by several processes: data parallelism over a process group of torch.distributed.

Every process is given the whole batch, and takes its own rows. What an estimate is made of are sums over the samples,
which are added up over the processes: K slopes by weight perturbation, gradients and statistics by all others. Noise
is drawn as one process draws it for the whole batch, and each takes its rows: nothing of it is sent, and the estimate
is that of one process, to the order of sums.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fgcli.gradient.errors import LossRefused, ModelRefused, OptionRefused, ProcessGone
from fgcli.gradient.estimator import Batch, Estimator, Loss, Splits
from fgcli.gradient.guess import GuessMethod
from fgcli.gradient.guesser import Guesser
from fgcli.gradient.look import look
from fgcli.gradient.nested import detached, leaves, mapped
from fgcli.gradient.randomness import Signs, StepRng


class Processes:
    """The processes that estimate a batch together, as one of them sees them.

    Args:
        group: a process group; None: this process is alone.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.size, self.rank = (1, 0) if group is None else (dist.get_world_size(group), dist.get_rank(group))
        if self.rank < 0:
            raise OptionRefused("this process is not in process_group; only the group's own processes take part")
        # None: the default group, not held here. One held until Python ends has threads that may abort it (SIGABRT).
        self._group = None if group is dist.group.WORLD else group
        self.sent = 0
        """Bytes that this process has given to `add`."""

    def device(self, device: torch.device) -> torch.device:
        """Where this process computes.

        Args:
            device: where one process would.

        Returns:
            On CUDA, the GPU that this process has taken; else the same.
        """
        own = self.size > 1 and device.type == "cuda"
        return torch.device("cuda", torch.cuda.current_device()) if own else device

    def own(self, batch: Batch) -> Batch:
        """This process's rows.

        Args:
            batch: the whole batch.

        Returns:
            About as many samples as every other process has.

        Raises:
            OptionRefused: for a batch with fewer samples than processes.
        """
        if self.size == 1:
            return batch
        if batch.size < self.size:
            raise OptionRefused(
                f"a batch has {batch.size} samples; it must have at least one for each of the {self.size} processes"
            )
        return batch.rows(slice(self._start(batch.size, self.rank), self._start(batch.size, self.rank + 1)))

    def _start(self, samples: int, rank: int) -> int:
        return samples * rank // self.size

    def rng(self, rng: StepRng, samples: int) -> StepRng:
        """What draws the noise of this process's rows: of what has a row a sample. Of the rest, `rng` itself does.

        Args:
            rng: the streams of the step.
            samples: of the whole batch.

        Returns:
            Streams that give some rows of what `rng` gives for the whole batch.
        """
        return rng if self.size == 1 else RowsRng(rng.streams, rng.step, samples, [self._start(samples, self.rank)])

    def loss(self, loss: Loss) -> Loss:
        """The loss, held in each call to what splitting a batch takes: that it is the mean of its samples' own losses.

        Args:
            loss: any loss.

        Returns:
            The same, which raises LossRefused where samples see each other in it, it is a sum, or it weighs them.
        """
        if self.size == 1:
            return loss

        def checked(outputs: Any, targets: Any) -> Tensor:
            losses = loss(outputs, targets)
            if isinstance(losses, Tensor):
                with torch.no_grad():
                    _refuse_unlike_mean(loss, losses.detach(), mapped(detached, outputs), targets)
            return losses

        return checked

    def refuse_unsplittable(self, model: nn.Module, example: Any) -> None:
        """Refuse a model whose rows are not computed alike by several processes and by one. `bind` calls it.

        Args:
            model: the model.
            example: inputs of a batch.

        Raises:
            ModelRefused: says why.
        """
        if self.size == 1:
            return
        network = look(model, example)
        reasons = {
            "it gives its own loss, which may weigh samples unlike: give a loss_fn": network.own_loss,
            f"samples meet in it ({network.mixes}); BatchNorm in eval mode, GroupNorm and LayerNorm do not mix them":
                network.mixes,
            "it draws random numbers (Dropout), which one process draws for the whole batch: set its rate to 0":
                network.drawing or network.draws_apart,
            f"it changes its buffer {next(iter(network.buffers), '')}, each process its own": network.buffers,
            f"the backward of '{network.counting}' counts in the whole batch (scale_grad_by_freq): leave that out":
                network.counting,
            "it looks at the size of the batch": not network.by_rows,
            "what it gives of a sample depends on the batch that the sample is in": not network.in_parts,
        }  # fmt: skip
        for reason, holds in reasons.items():
            if holds:
                raise ModelRefused(f"this model cannot be split over {self.size} processes: {reason}")

    def refuse_branch(self, site: str) -> None:
        """Refuse a forward that takes another way at some values, which not every process would see.

        Args:
            site: where.

        Raises:
            ModelRefused: where there are several processes.
        """
        if self.size > 1:
            raise ModelRefused(
                f"the forward takes another way at '{site}', as values have it; such a model cannot be split over "
                f"{self.size} processes"
            )

    def add(self, *sums: MutableMapping[Any, Tensor], told: Iterable[Tensor] = ()) -> None:
        """Put the sums over all processes in place of this one's. One collective for each dtype.

        Args:
            sums: by names that all processes have.
            told: what only this process has. Where it is not finite, no process's sum is, so that all see a fault.
        """
        if self.size == 1:
            return
        keys = [(group, key) for group in sums for key in sorted(group)]
        for dtype in dict.fromkeys(group[key].dtype for group, key in keys):
            some = [(group, key) for group, key in keys if group[key].dtype == dtype]
            flat = torch.cat([group[key].detach().reshape(-1) for group, key in some])
            for one in told:
                flat[0] += (0 * one).sum().to(flat)
            self._reduce(flat)
            for (group, key), total in zip(some, flat.split([group[key].numel() for group, key in some]), strict=True):
                group[key] = total.view(group[key].shape)

    def slopes(self, slopes: Tensor, losses: Tensor) -> Tensor:
        """Add up slopes, and nothing else.

        Args:
            slopes: this process's share [K].
            losses: of its rows. Where they are not finite, no process's sum is.

        Returns:
            The sums over all processes [K].
        """
        sums = {"": slopes}
        self.add(sums, told=[losses])
        return sums[""]

    def _reduce(self, flat: Tensor) -> None:
        self.sent += flat.numel() * flat.element_size()
        self._together(lambda: dist.all_reduce(flat, group=self._group))

    def agree(self, what: Mapping[str, str], device: torch.device) -> None:
        """Refuse processes that differ in something. Not a part of a step, and not counted.

        Args:
            what: by its name, text that is to be the same.
            device: where the group's tensors are.

        Raises:
            OptionRefused: names the process and what differs.
        """
        if self.size == 1:
            return
        digests = [list(hashlib.blake2b(text.encode(), digest_size=8).digest()) for text in what.values()]
        own = torch.tensor(digests, dtype=torch.uint8, device=device)
        every = [torch.empty_like(own) for _ in range(self.size)]
        self._together(lambda: dist.all_gather(every, own, group=self._group))
        for rank, other in enumerate(every):
            for name, same in zip(what, (other == every[0]).all(1).tolist(), strict=True):
                if not same:
                    raise OptionRefused(f"process {rank} has another {name} than process 0; all must have the same")

    def share(self, text: str, device: torch.device) -> str:
        """Hand a text of the first process to all.

        Args:
            text: the first process's counts.
            device: where the group's tensors are.

        Returns:
            That of the first process.
        """
        if self.size == 1:
            return text
        own = torch.tensor(list(text.encode()), dtype=torch.uint8, device=device)
        length = torch.tensor([len(own)], device=device)
        self._together(lambda: dist.broadcast(length, group=self._group, group_src=0))
        content = own if self.rank == 0 else own.new_empty(int(length))
        self._together(lambda: dist.broadcast(content, group=self._group, group_src=0))
        return bytes(content.tolist()).decode()

    def _together(self, collective: Callable[[], object]) -> None:
        try:
            if (dist.get_world_size(self._group), dist.get_rank(self._group)) != (self.size, self.rank):
                raise RuntimeError("the default group has been made anew")
            collective()
        except (RuntimeError, ValueError) as cause:  # a ValueError: the group was destroyed
            raise ProcessGone(f"a process of the {self.size} is gone ({str(cause).splitlines()[0]})") from cause


ALONE = Processes()
"""This process alone."""


class TakesRows:
    """An estimator that takes its own rows of a batch, and adds up over the processes by what `processes` has."""

    processes: Processes = ALONE

    def split_over(self, processes: Processes) -> None:
        self.processes = processes


def refuse_unsplittable_guesses(processes: Processes, guessers: Mapping[str, Guesser]) -> None:
    """Of some sites. ModelRefused for a guess that is made of more than a sample, and its rows of a common noise."""
    if processes.size == 1:
        return
    for name, one in guessers.items():
        reason = ""
        if not isinstance(one.guess, GuessMethod):
            reason = f"has a guess that {type(one.guess).__name__} draws for itself"
        elif one.guess.whole_batch:
            reason = f"has a guess that {type(one.guess).__name__} makes of the whole batch"
        elif one.guess.needs != "nothing" and not one.site.has_samples:
            reason = "has one guess for the whole batch, made of every sample's Jacobian"
        if reason:
            raise ModelRefused(
                f"site '{name}' {reason}; it cannot be split over {processes.size} processes: use "
                "activation-perturbation, or feedback"
            )


def split(estimator: Estimator, processes: Processes) -> None:
    """Have an estimator take part, where there are several. OptionRefused for one that cannot."""
    if processes.size == 1:
        return
    if not isinstance(estimator, Splits):
        raise OptionRefused(f"{type(estimator).__name__} cannot be split over {processes.size} processes")
    estimator.split_over(processes)


@dataclass(frozen=True)
class RowsRng(StepRng):
    """The streams of a step for some rows of a batch: each draw is that of the whole batch, and some rows of it."""

    samples: int
    """Of the whole batch."""
    _start: list[int] = field(default_factory=lambda: [0])
    """The first row, which moves on from part to part."""

    @property
    def shared(self) -> StepRng:
        return StepRng(self.streams, self.step)

    def normal_(self, z: Tensor, purpose: str, site: str) -> None:
        z.copy_(self._rows(self.shared.normal(purpose, site, (self.samples, *z.shape[1:]), z), len(z)))

    def normal(self, purpose: str, site: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        return self._rows(self.shared.normal(purpose, site, (self.samples, *shape[1:]), like), shape[0])

    def signs(self, purpose: str, site: str, shape: tuple[int, ...], device: torch.device) -> Signs:
        (start,) = self._start
        return self.shared.signs(purpose, site, (self.samples, *shape[1:]), device).rows(start, start + shape[0])

    def _rows(self, drawn: Tensor, number: int) -> Tensor:
        (start,) = self._start
        return drawn[start : start + number].clone()  # the rest is let go of

    def in_parts(self, parts: Sequence[slice]) -> StepRng:
        return RowsRng(self.streams, self.step, self.samples, list(self._start))

    def advance(self, samples: int) -> None:
        self._start[0] += samples


def digest_of(tensors: Iterable[Tensor]) -> str:
    """Of values, shapes and dtypes, by which processes see that they have the same."""
    total = hashlib.sha256()
    for one in tensors:
        total.update(f"{one.dtype} {list(one.shape)}\n".encode())
        total.update(one.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _refuse_unlike_mean(loss: Loss, losses: Tensor, outputs: Any, targets: Any) -> None:
    """LossRefused unless the loss of a batch is the mean over its samples, each seen by itself."""
    rows = [one for one in leaves(outputs) if one.dim()]
    samples = len(rows[0]) if rows else 0
    if not samples or len(rows) != len(leaves(outputs)) or any(len(one) != samples for one in rows):
        raise LossRefused("the model's outputs have no sample a row, so that the loss cannot be split over processes")
    batch, size = Batch(outputs, targets), 1.0
    if samples == 1:  # twice the same has the same mean

        def twice(value: Any) -> Any:
            return torch.cat([value, value]) if isinstance(value, Tensor) and value.dim() and len(value) == 1 else value

        found, expected = loss(mapped(twice, outputs), mapped(twice, targets)), losses
        found = found[:1] if found.dim() else found
    else:
        half = samples // 2
        first, rest = (batch.rows(one) for one in (slice(half), slice(half, samples)))
        a, b = loss(first.inputs, first.targets), loss(rest.inputs, rest.targets)
        found = torch.cat([a, b]) if a.dim() else (half * a + (samples - half) * b) / samples
        size += 0.0 if a.dim() else float(torch.stack([a.abs(), b.abs()]).nan_to_num(0, 0).max())
        expected = losses
    if found.shape != expected.shape or not torch.allclose(
        found, expected, rtol=1e-4, atol=1e-6 * size, equal_nan=True
    ):
        raise LossRefused(
            "the loss of a batch is not the mean of its samples' own losses (samples see each other in it, or it is a "
            "sum, or weighs them), so that it cannot be split over processes: use one process, or a mean"
        )
