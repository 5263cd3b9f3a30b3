"""The training loop: epochs of batches, one estimate and one update a step. Knows no method's name."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any, NoReturn

import torch
from torch import Tensor

from fgcli.devices import peak_memory_bytes, synchronize
from fgcli.errors import FgError, RunError, exception_text
from fgcli.gradient.errors import GuessFault
from fgcli.gradient.estimator import Batch, Estimate, FindsFaults
from fgcli.training.assembly import Assembly, cross_entropy
from fgcli.training.checkpoints import CheckpointStore
from fgcli.training.faults import malformed, not_finite
from fgcli.training.reporter import Plan, Reporter
from fgcli.training.rows import append_row, rewind_rows
from fgcli.training.run_directory import RunDirectory
from fgcli.training.state import capture, restore
from fgcli.training.step_times import StepTimes

EVALUATION_BATCH = 1024
RESULT_SCHEMA = 1


class Training:
    """One run, from its first step or from its newest checkpoint. Made once it is certain that it shall run."""

    def __init__(self, assembly: Assembly, run: RunDirectory, reporter: Reporter) -> None:
        self.assembly, self.run_directory, self.reporter = assembly, run, reporter
        self.parameters = dict(assembly.model.named_parameters())
        self.step = 0  # updates done
        self.times = StepTimes()
        self.last_row: dict[str, Any] = {}
        self._wall_before = 0.0  # seconds that earlier processes spent on this run
        self._started = perf_counter()

        recipe, samples = assembly.recipe, len(assembly.dataset.train_inputs)
        self.steps_per_epoch = math.ceil(samples / recipe.batch_size)
        self.store = CheckpointStore(
            run.checkpoints,
            run.recipe_file.read_text(encoding="utf-8"),
            frozenset(epoch * self.steps_per_epoch for epoch in recipe.keep_checkpoints),
        )
        all_steps = recipe.epochs * self.steps_per_epoch
        self.total_steps = min(all_steps, recipe.max_steps or all_steps)

    def resume(self) -> None:
        """Take up the newest usable checkpoint, and drop the metrics rows that were written after it.

        A run that was stopped before its first checkpoint begins again. RunError when all checkpoints are damaged.
        """
        checkpoint, complaints = self.store.load_newest()
        for complaint in complaints:
            self.reporter.warned(f"{complaint}; the checkpoint before it is used")
        if checkpoint is None:
            self.reporter.warned("the run was stopped before its first checkpoint; it begins again")
        else:
            self.step = checkpoint.step
            self._wall_before, self.times = restore(self.assembly, checkpoint)
        rows, torn = self.run_directory.rewind_metrics(self.step)
        rewind_rows(self.run_directory.diagnostics_file, self.step if checkpoint else -1)
        if torn:
            self.reporter.warned(f"dropped the torn last line of {self.run_directory.metrics_file}")
        self.last_row = rows[-1] if rows else {}

    @torch.no_grad()
    def run(self) -> dict[str, Any]:
        """Train to the end; returns the content of result.json.

        RunError when a loss or a directional derivative is not finite: before the update, so that the last
        checkpoint is good.
        """
        self._started = perf_counter()
        self.reporter.started(self._plan())
        if self.step == 0:
            self._record_diagnostics()
        for indices in self._batches():
            loss = self._take_step(indices)
            self.step += 1
            self.reporter.stepped(self.step, loss)
            evaluate = self._is_due(self.assembly.recipe.eval_every)
            if evaluate:
                self._evaluate()
            if self._is_due(self.assembly.recipe.diagnostics_every):
                self._record_diagnostics()
            if evaluate or self.step in self.store.kept_steps:
                self.store.save(capture(self.assembly, self.step, self._wall(), self.times))
        result = self._result()
        self.run_directory.write_result(result)
        return result

    def _plan(self) -> Plan:
        return Plan(
            method=self.assembly.recipe.method,
            run_dir=self.run_directory.path,
            first_step=self.step,
            total_steps=self.total_steps,
            steps_per_epoch=self.steps_per_epoch,
            coverage=self.assembly.coverage,
        )

    def _batches(self) -> Iterator[Tensor]:
        """The samples of each step still to be done. An epoch's order comes from its own stream: none is stored."""
        samples, size = len(self.assembly.dataset.train_inputs), self.assembly.recipe.batch_size
        while self.step < self.total_steps:
            epoch, done = divmod(self.step, self.steps_per_epoch)
            order = torch.randperm(samples, generator=self.assembly.streams.generator("data", epoch))
            batches = order.to(self.assembly.device).split(size)[done:]
            yield from batches[: self.total_steps - self.step]

    def _take_step(self, indices: Tensor) -> float:
        """One update; returns the batch's mean loss. Times the estimator and the optimiser, and nothing else."""
        assembly, device = self.assembly, self.assembly.device
        batch = Batch(assembly.dataset.train_inputs[indices], assembly.dataset.train_targets[indices])

        with assembly.streams.for_layers("layers", self.step, device):
            start = _now(device)
            estimate = self._estimate(batch)
            estimated = _now(device)
        self._check(estimate, batch)
        checked = _now(device)
        for name, parameter in self.parameters.items():
            parameter.grad = estimate.gradients.get(name)
        with self._blaming(f"optimizer {assembly.recipe.optimizer}"):
            assembly.optimizer.step()
        self.times.add(1e3 * (_now(device) - checked + estimated - start))
        return estimate.losses.mean().item()

    def _estimate(self, batch: Batch) -> Estimate:
        assembly = self.assembly
        with self._blaming(assembly.method):
            return assembly.estimator.estimate(assembly.model, cross_entropy, batch, assembly.streams.at(self.step))

    @contextmanager
    def _blaming(self, what: str) -> Iterator[None]:
        """Stop the run where a plugin's code raises: `what` says whose it is."""
        try:
            yield
        except FgError:
            raise
        except (Exception, SystemExit) as cause:
            fault = str(cause) if isinstance(cause, GuessFault) else exception_text(cause)
            self._stop(f"{what} failed in step {self.step + 1}: {fault}", cause)

    def _check(self, estimate: Estimate, batch: Batch) -> None:
        """Stop before the update on what an optimiser cannot use: of another shape, or not finite."""
        if fault := malformed(estimate, self.parameters):
            self._stop(f"{self.assembly.method} failed in step {self.step + 1}: {fault}")
        what = not_finite(estimate)
        if what is None:
            return
        where = None if what == "loss" else self._find_fault(batch)
        blamed = f"; {self.assembly.method}, {where}" if where else ""
        self._stop(f"the {what} is not finite in step {self.step + 1}; stopped before the update{blamed}")

    def _find_fault(self, batch: Batch) -> str | None:
        assembly = self.assembly
        if not isinstance(assembly.estimator, FindsFaults):
            return None
        try:
            with assembly.streams.for_layers("layers", self.step, assembly.device):
                return assembly.estimator.find_fault(assembly.model, batch, assembly.streams.at(self.step))
        except Exception:  # the fault itself is told all the same
            return None

    def _stop(self, what: str, cause: BaseException | None = None) -> NoReturn:
        saved = self.store.steps()
        last = f"the last good checkpoint is of step {saved[-1]}" if saved else "there is no checkpoint yet"
        mend = "`fg --debug ...` shows where" if cause else "a smaller --lr may help"
        where = f"seed {self.assembly.recipe.seed}, {self.run_directory.path}; {last}"
        raise RunError(f"{what} ({where}); {mend}") from cause

    def _is_due(self, epochs: int) -> bool:
        """Whether it is time for what is done every so many epochs, and at the end."""
        return self.step % (epochs * self.steps_per_epoch) == 0 or self.step == self.total_steps

    def _record_diagnostics(self) -> None:
        """Write a row of diagnostics where the recipe asks for them; leaves the run's numbers as they are."""
        assembly = self.assembly
        if assembly.recorder is None:
            return
        with self._measuring():
            row = assembly.recorder.record(self.step, assembly.estimator.state())
        append_row(self.run_directory.diagnostics_file, {"epoch": self.step / self.steps_per_epoch, **row})

    def _evaluate(self) -> None:
        """Write a metrics row. RunError, before anything is written, when a loss is not finite."""
        dataset = self.assembly.dataset
        with self._measuring():
            train_loss, train_accuracy = self._measure(dataset.train_inputs, dataset.train_targets)
            test_loss, test_accuracy = self._measure(dataset.test_inputs, dataset.test_targets)
        for split, loss in (("training", train_loss), ("test", test_loss)):
            if not math.isfinite(loss):
                self._stop(f"the {split} loss is not finite after step {self.step}")
        self.last_row = {
            "step": self.step,
            "epoch": self.step / self.steps_per_epoch,
            "train_loss": train_loss,
            "train_accuracy": train_accuracy,
            "test_loss": test_loss,
            "test_accuracy": test_accuracy,
            "wall_s": self._wall(),
        }
        self.run_directory.append_metrics(self.last_row)
        self.reporter.evaluated(self.last_row)

    @contextmanager
    def _measuring(self) -> Iterator[None]:
        """The model in eval mode; then each layer in its own again: a BatchNorm put into eval mode stays there."""
        assembly = self.assembly
        modes = [(module, module.training) for module in assembly.model.modules()]
        assembly.model.eval()
        try:
            with assembly.streams.for_layers("evaluation", self.step, assembly.device):
                yield
        finally:
            for module, training in modes:
                module.training = training

    def _measure(self, inputs: Tensor, targets: Tensor) -> tuple[float, float]:
        """Mean loss and accuracy over a whole split."""
        loss, correct = 0.0, 0
        for some_inputs, some_targets in zip(
            inputs.split(EVALUATION_BATCH), targets.split(EVALUATION_BATCH), strict=True
        ):
            outputs = self.assembly.model(some_inputs)
            loss += cross_entropy(outputs, some_targets).sum().item()
            correct += int((outputs.argmax(dim=1) == some_targets).sum().item())
        return loss / len(inputs), correct / len(inputs)

    def _wall(self) -> float:
        return self._wall_before + perf_counter() - self._started

    def _result(self) -> dict[str, Any]:
        recipe, coverage = self.assembly.recipe, self.assembly.coverage
        lower, median, upper = self.times.quartiles()
        row = self.last_row
        return {
            "schema": RESULT_SCHEMA,
            **recipe.model_dump(mode="json"),
            "steps": self.step,
            "train_accuracy": row["train_accuracy"],
            "test_accuracy": row["test_accuracy"],
            "train_loss": row["train_loss"],
            "test_loss": row["test_loss"],
            "wall_s": self._wall(),
            "step_ms_median": median,
            "step_ms_quartiles": [lower, upper],
            "peak_memory_bytes": peak_memory_bytes(self.assembly.device),
            "sites": list(coverage.sites),
            "perturbed": list(coverage.perturbed),
            "frozen": list(coverage.frozen),
            "run_dir": str(self.run_directory.path),
        }


def _now(device: torch.device) -> float:
    synchronize(device)
    return perf_counter()
