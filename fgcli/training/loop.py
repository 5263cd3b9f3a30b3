"""The training loop: epochs of batches, one estimate and one update a step. Knows no method's name."""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from time import perf_counter
from typing import Any, NoReturn

import torch
from torch import Tensor

from fgcli.devices import peak_memory_bytes, synchronize
from fgcli.errors import FgError, RunError, exception_text
from fgcli.gradient.buffers import BufferState
from fgcli.gradient.errors import GuessFault, ProcessGone
from fgcli.gradient.estimator import Batch, Estimate, FindsFaults
from fgcli.gradient.processes import digest_of
from fgcli.runs.diagnostics import DiagnosticsRow
from fgcli.runs.record import read_record
from fgcli.runs.results import MetricsRow, Result
from fgcli.runs.rows import STEP, append_row, rewind_rows
from fgcli.runs.run_directory import RunDirectory
from fgcli.runs.sweep_directory import sweep_of
from fgcli.training.assembly import Assembly, steps_of
from fgcli.training.checkpoints import Checkpoint, store_of
from fgcli.training.cost import AFTER, cost_line, first_step
from fgcli.training.evaluation import evaluate, measuring
from fgcli.training.faults import first_not_finite, malformed, not_finite
from fgcli.training.interrupts import Interrupted, StopRequest, stop_request
from fgcli.training.reporter import Plan, Reporter
from fgcli.training.schedules import advance
from fgcli.training.several import PeerLost
from fgcli.training.state import Progress, capture, restore


class Training:
    """One run, from its first step or from its newest checkpoint. Made once it is certain that it shall run.

    Holds the run directory's lock until `run` returns or raises.
    """

    def __init__(self, assembly: Assembly, run: RunDirectory, reporter: Reporter) -> None:
        self.assembly, self.run_directory, self.reporter = assembly, run, reporter
        self.parameters = dict(assembly.model.named_parameters())
        self.step = 0  # steps done
        self.progress = Progress()
        self.last_row: MetricsRow | None = None
        self._said_left_out = False
        self._wall_before = 0.0  # seconds that earlier processes spent on this run
        self._started, self._began_at = perf_counter(), 0

        self.steps_per_epoch, self.total_steps = steps_of(assembly.recipe, assembly.dataset)
        self.know_checkpoints()

    def know_checkpoints(self) -> None:
        """Of the recipe as it is written now."""
        recipe = self.assembly.recipe
        kept_steps = frozenset(epoch * self.steps_per_epoch for epoch in recipe.keep_checkpoints)
        self.store = store_of(self.run_directory, kept_steps, recipe.keep_last)

    def take_up(self) -> tuple[Checkpoint | None, list[str]]:
        """Take up the newest usable checkpoint, if there is one, and what is wrong with newer ones. Writes nothing."""

        def take(checkpoint: Checkpoint) -> None:
            self.progress = restore(self.assembly, checkpoint)

        checkpoint, complaints = self.store.load_newest(take)
        if checkpoint is not None:
            self.step = checkpoint.step
        return checkpoint, complaints

    def resume(self) -> None:
        """Take up the newest usable checkpoint, and drop the metrics rows that were written after it.

        A run that was stopped before its first checkpoint begins again. RunError when none is usable, or left.
        """

        checkpoint, complaints = self.take_up()
        if checkpoint is None:
            # Each row is followed by a checkpoint: without one a run has a single row at most, else they were removed.
            before = self.run_directory.read_metrics()
            if len(before) > 1:
                raise RunError(
                    f"no checkpoint is left in {self.store.folder}, though the run has been evaluated after step "
                    f"{before[-1].step}; put one back (both of its files), or begin a new run"
                )
            self.store.folder.mkdir(exist_ok=True)
            self.reporter.warned("the run was stopped before its first checkpoint; it begins again")
        else:
            for complaint in complaints:
                self.reporter.warned(f"{complaint}; the checkpoint before it is used")
        self._wall_before = self.progress.wall_s
        rows, torn = self.run_directory.rewind_metrics(self.step)
        rewind_rows(self.run_directory.diagnostics_file, self.step if checkpoint else -1)
        if torn:
            self.reporter.warned(f"dropped the torn last line of {self.run_directory.metrics_file}")
        self._take_up_rows(rows)

    def _take_up_rows(self, rows: list[dict[str, Any]]) -> None:
        """The last row may be needed for the result, so one that got lost with the file is measured anew."""
        period = self.assembly.recipe.eval_every * self.steps_per_epoch
        due = {*range(period, self.step + 1, period), *([self.step] if self.step == self.total_steps else [])}
        if missing := len(due.difference(row[STEP] for row in rows)):
            self.reporter.warned(f"{self.run_directory.metrics_file} has lost {missing} of {len(due)} rows")
        if rows:
            with suppress(RunError):
                self.last_row = read_record(MetricsRow, rows[-1], self.run_directory.metrics_file)
        if self.step in due and (self.last_row is None or self.last_row.step != self.step):
            self._evaluate()

    @torch.no_grad()
    def run(self) -> Result:
        """Train to the end; returns what is in result.json.

        RunError when a loss, a directional derivative, a guess or a weight is not finite: before the update, so that
        the last checkpoint is good. Interrupted, after a checkpoint, when a signal asks for it.
        """
        try:
            with self.run_directory.telling_how_to_resume(), stop_request() as request:
                return self._run(request)
        finally:
            self.run_directory.release()

    @torch.no_grad()
    def follow(self) -> None:
        """Take this process's part in the steps of a run that another process writes down.

        RunError as `run`; PeerLost where the other is gone.
        """
        for indices in self._batches():
            self._take_step(indices)
            self.step += 1
            if self._is_due(self.assembly.recipe.eval_every):
                self._compare()

    def _compare(self) -> None:
        """Hold the weights to those of the other processes."""
        processes, device = self.assembly.processes, self.assembly.device
        if processes.size > 1:
            with self._blaming("the comparison of the processes"):
                processes.agree({"set of weights": digest_of(self.parameters.values())}, device)

    def _run(self, request: StopRequest) -> Result:
        self._started, self._began_at = perf_counter(), self.step
        self.reporter.started(self._plan())
        if self.step == 0:
            self._record_diagnostics()
        first = self.step
        for indices in self._batches():
            with first_step(self.assembly.recipe, self.reporter) if self.step == first else nullcontext():
                loss = self._take_step(indices)
            self.step += 1
            self.reporter.stepped(self.step, loss)
            if self.step == first + AFTER and (line := self._cost_line(indices)):
                self.reporter.warned(line)
            evaluated = self._is_due(self.assembly.recipe.eval_every)
            if evaluated:
                self._compare()
                self._evaluate()
            if self._is_due(self.assembly.recipe.diagnostics_every):
                self._record_diagnostics()
            stop = request.by
            if evaluated or stop or self.step in self.store.kept_steps:
                self._save()
            if stop:
                raise Interrupted(
                    f"stopped by {stop.name} after step {self.step}, with a checkpoint; go on with: "
                    f"{self.run_directory.resume_command}",
                    stop,
                )
        if (skipped := self.progress.skipped) == self.step:
            self._stop(f"all {skipped} updates were left out, as something was not finite: nothing was trained")
        if skipped:
            self.reporter.warned(f"{skipped} of {self.step} updates were left out, as something was not finite")
        result = self._result()
        self.run_directory.write_result(result)
        return result

    def _save(self) -> None:
        self._refuse_bad_weights()
        self.progress.wall_s = self._wall()
        best = self.progress.best
        self.store.save(capture(self.assembly, self.step, self.progress), None if best is None else best[1])

    def _plan(self) -> Plan:
        return Plan(
            method=self.assembly.recipe.method,
            run_dir=self.run_directory.path,
            first_step=self.step,
            total_steps=self.total_steps,
            steps_per_epoch=self.steps_per_epoch,
            coverage=self.assembly.coverage,
            data=self.assembly.dataset.summary,
            recipe=self.assembly.recipe.model_dump(mode="json"),
            sweep=sweep_of(self.run_directory.path),
        )

    def _batches(self) -> Iterator[Tensor]:
        """The samples of each step still to be done. An epoch's order comes from its own stream: none is stored."""
        samples, size = len(self.assembly.dataset.train_inputs), self.assembly.recipe.batch_size
        while self.step < self.total_steps:
            epoch, done = divmod(self.step, self.steps_per_epoch)
            order = torch.randperm(samples, generator=self.assembly.streams.generator("data", epoch))
            batches = order.to(self.assembly.device).split(size)[done:]
            yield from batches[: self.total_steps - self.step]

    def _batch(self, indices: Tensor) -> Batch:
        return Batch(self.assembly.dataset.train_inputs[indices], self.assembly.dataset.train_targets[indices])

    def _cost_line(self, indices: Tensor) -> str | None:
        if self.progress.skipped == self.step:  # none was timed
            return None
        _, step_ms, _ = self.progress.times.quartiles()
        return cost_line(self.assembly, self._batch(indices), step_ms, self.total_steps - self.step)

    def _take_step(self, indices: Tensor) -> float:
        """One update; returns the batch's mean loss. Times the estimator and the optimiser, and nothing else."""
        assembly, device = self.assembly, self.assembly.device
        self._refuse_bad_weights()
        batch = self._batch(indices)
        before = self._kept()

        with assembly.streams.for_layers("layers", self.step, device):
            start = _now(device)
            estimate = self._estimate(batch)
            estimated = _now(device)
        if fault := self._find_fault(estimate, batch):
            self._skip(fault, before)
        else:
            checked = _now(device)
            for name, parameter in self.parameters.items():
                parameter.grad = estimate.gradients.get(name)
            if assembly.recipe.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(self.parameters.values(), assembly.recipe.clip_norm)
            with self._blaming(f"optimizer {assembly.recipe.optimizer}"):
                assembly.optimizer.step()
            self.progress.times.add(1e3 * (_now(device) - checked + estimated - start))
        with self._blaming(f"lr_schedule {assembly.recipe.lr_schedule}"):
            advance(assembly.schedule)
        return estimate.losses.mean().item()

    def _estimate(self, batch: Batch) -> Estimate:
        assembly = self.assembly
        with self._blaming(assembly.method):
            rng = assembly.streams.at(self.step)
            return assembly.estimator.estimate(assembly.model, assembly.objective.loss, batch, rng)

    @contextmanager
    def _blaming(self, what: str) -> Iterator[None]:
        """Stop the run where a plugin's code raises: `what` says whose it is."""
        try:
            yield
        except FgError:
            raise
        except ProcessGone as gone:
            raise PeerLost(
                f"{gone}, in step {self.step + 1}; go on with: {self.run_directory.resume_command}"
            ) from gone
        except (Exception, SystemExit) as cause:
            fault = str(cause) if isinstance(cause, GuessFault) else exception_text(cause)
            self._stop(f"{what} failed in step {self.step + 1}: {fault}", cause)

    def _find_fault(self, estimate: Estimate, batch: Batch) -> str | None:
        """What is not finite, in one clause. Stops on what is of another shape, which no later step mends."""
        if fault := malformed(estimate, self.parameters):
            self._stop(f"{self.assembly.method} failed in step {self.step + 1}: {fault}")
        what = not_finite(estimate)
        if what is None:
            return None
        where = None if what == "loss" else self._find_site(batch)
        blamed = f" ({self.assembly.method}, {where})" if where else ""
        return f"the {what} is not finite in step {self.step + 1}{blamed}"

    def _kept(self) -> tuple[BufferState, dict[str, Tensor]] | None:
        """The model's buffers and the estimator's state, where an update may be left out: an estimate changes them."""
        if self.assembly.recipe.on_nonfinite == "stop":
            return None
        with self._blaming(self.assembly.method):
            state = self.assembly.estimator.state()
        return BufferState(self.assembly.model), {name: one.clone() for name, one in state.items()}

    def _skip(self, fault: str, before: tuple[BufferState, dict[str, Tensor]] | None) -> None:
        """Leave an update out, where the recipe allows it, or stop before it. What was `before` it is put back."""
        if before is None:
            self._stop(f"{fault}; stopped before the update")
        buffers, state = before
        buffers.restore()
        self.assembly.estimator.load_state(state)
        self.progress.skipped += 1
        if self.progress.skipped == 1:
            self.reporter.warned(f"{fault}; this update is left out, and later ones like it without a word")

    def _refuse_bad_weights(self) -> None:
        if name := first_not_finite(self.parameters):
            self._stop(f"the weight {name} is not finite after step {self.step}; stopped before the next update")

    def _find_site(self, batch: Batch) -> str | None:
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
        mend = (
            "a smaller --lr may help" if self.step else "no update came before it: look at the inputs and the options"
        )
        mend = "`fgcli --debug ...` shows where" if cause else mend
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
        with measuring(self.assembly, self.step):
            layers = assembly.recorder.record(self.step, assembly.estimator.state())
        row = DiagnosticsRow(self.step / self.steps_per_epoch, self.step, layers)
        append_row(self.run_directory.diagnostics_file, row.as_json())

    def _evaluate(self) -> None:
        """Write a metrics row. RunError, before anything is written, when a loss is not finite."""
        measured = evaluate(self.assembly, self.step)
        splits = {
            "training": (measured.train_loss, measured.train_left_out),
            "test": (measured.test_loss, measured.test_left_out),
        }
        stops = self.assembly.recipe.on_nonfinite == "stop"
        for split, (loss, left_out) in splits.items():
            if not math.isfinite(loss) or (stops and left_out):
                self._stop(f"the {split} loss is not finite after step {self.step}")
        said = [f"{count} of {split}" for split, (_, count) in splits.items() if count]
        if said and not self._said_left_out:
            self._said_left_out = True
            self.reporter.warned(
                f"the losses after step {self.step} leave out samples whose own is not finite ({' and '.join(said)}), "
                "which count as wrong; later ones are left out without a word"
            )
        if self.progress.best is None or measured.train_loss < self.progress.best[0]:
            self.progress.best = (measured.train_loss, self.step)
        self.last_row = MetricsRow(self.step, self.step / self.steps_per_epoch, measured, self._wall())
        self.run_directory.append_metrics(self.last_row)
        self.reporter.evaluated(self.last_row)

    def _wall(self) -> float:
        return self._wall_before + perf_counter() - self._started

    def _result(self) -> Result:
        assert self.last_row is not None, "a run ends with an evaluation"
        recipe, coverage = self.assembly.recipe, self.assembly.coverage
        lower, median, upper = self.progress.times.quartiles()
        best, processes = self.progress.best, self.assembly.processes
        steps = self.step - self._began_at
        return Result(
            recipe=recipe.model_dump(mode="json"),
            steps=self.step,
            skipped_updates=self.progress.skipped,
            metrics=self.last_row.metrics,
            best_step=None if best is None else best[1],
            wall_s=self._wall(),
            step_ms_median=median,
            step_ms_quartiles=(lower, upper),
            step_ms_mean=self.progress.times.mean(),
            peak_memory_bytes=peak_memory_bytes(self.assembly.device),
            sites=tuple(coverage.sites),
            perturbed=tuple(coverage.perturbed),
            frozen=tuple(coverage.frozen),
            processes=processes.size,
            sent_bytes_per_step=processes.sent / steps if processes.size > 1 and steps else None,
            run_dir=str(self.run_directory.path),
        )


def _now(device: torch.device) -> float:
    synchronize(device)
    return perf_counter()
