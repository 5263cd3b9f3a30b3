"""The hooks of a plugin. Each returns entries; the built-in ones come through the same hooks.

A plugin's module, found by an entry point of group "fg":

    from fgcli.extend.entry import Entry
    from fgcli.extend.hookspecs import hookimpl

    FG_CONTRACT = 2

    @hookimpl
    def fg_guess_methods() -> list[Entry]:
        return [Entry("mine", "my_package:Mine", "One line on what it does.", MyOptions)]

Hooks run whenever `fg` starts, for its help too: they import nothing heavy, and leave torch to an entry's target.
docs/plugins.md says what each target is called with, and is the list of all that is public.
"""

from pluggy import HookimplMarker, HookspecMarker

from fgcli.extend.entry import Entry

PROJECT = "fg"
hookspec = HookspecMarker(PROJECT)
hookimpl = HookimplMarker(PROJECT)
"""Marks a function of a plugin as the hook that it is named after."""

CONTRACT = 2
"""The version of all that is public to plugins. A plugin says in FG_CONTRACT which one it is made for; without, 1."""


@hookspec
def fg_guess_methods() -> list[Entry]:
    """Guess methods, driven by the forward gradient; a target (options) gives a `fgcli.gradient.guess.GuessMethod`."""
    raise NotImplementedError


@hookspec
def fg_estimators() -> list[Entry]:
    """Estimators, named by `--method` too; a target (options) gives a `fgcli.gradient.estimator.Estimator`."""
    raise NotImplementedError


@hookspec
def fg_datasets() -> list[Entry]:
    """Datasets; a target (options) gives a `fgcli.data.dataset.Dataset`."""
    raise NotImplementedError


@hookspec
def fg_models() -> list[Entry]:
    """Models; a target (options, input_shape, classes, generator) gives a `torch.nn.Module`."""
    raise NotImplementedError


@hookspec
def fg_optimizers() -> list[Entry]:
    """Optimisers; a target (options, parameters, lr) gives a `torch.optim.Optimizer`."""
    raise NotImplementedError


@hookspec
def fg_feedback_rules() -> list[Entry]:
    """Rules of feedback, named by `--feedback`; a target (the method's options) gives a `FeedbackRule`."""
    raise NotImplementedError


@hookspec
def fg_losses() -> list[Entry]:
    """Losses; a target (options, dataset) gives a `fgcli.training.losses.Objective`, or the loss function alone."""
    raise NotImplementedError


@hookspec
def fg_lr_schedules() -> list[Entry]:
    """Learning-rate schedules; a target (options, optimizer, total_steps, steps_per_epoch) gives an `LRScheduler`."""
    raise NotImplementedError


@hookspec
def fg_executors() -> list[Entry]:
    """Executors of a sweep's trials; a target (options) gives a `fgcli.bench.executor.Executor`."""
    raise NotImplementedError


@hookspec
def fg_metric_sinks() -> list[Entry]:
    """Metric sinks, asked for by `fgcli train --sink`; a target (options) gives a `fgcli.training.sinks.MetricSink`."""
    raise NotImplementedError


@hookspec
def fg_subcommands() -> list[Entry]:
    """Subcommands of `fg`; a target is a function with typer's annotations. Those of fg itself cannot be replaced."""
    raise NotImplementedError
