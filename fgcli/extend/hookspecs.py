"""The hooks of a plugin. Each returns entries; the built-in ones (fgcli/builtin.py) come through the same hooks.

A plugin's module, found by an entry point of group "fg":

    from fgcli.extend.entry import Entry
    from fgcli.extend.hookspecs import hookimpl

    @hookimpl
    def fg_guess_methods() -> list[Entry]:
        return [Entry("mine", "my_package:Mine", "One line on what it does.", MyOptions)]
"""

from pluggy import HookimplMarker, HookspecMarker

from fgcli.extend.entry import Entry

PROJECT = "fg"
hookspec = HookspecMarker(PROJECT)
hookimpl = HookimplMarker(PROJECT)


@hookspec
def fg_guess_methods() -> list[Entry]:
    """Guess methods: linear maps from noise to a site's tangent space, driven by the forward gradient."""
    raise NotImplementedError


@hookspec
def fg_estimators() -> list[Entry]:
    """Estimators with full control over how losses and gradients come about; named by `--method`, too."""
    raise NotImplementedError


@hookspec
def fg_datasets() -> list[Entry]:
    """Datasets: functions from their options to a `fgcli.data.dataset.Dataset`."""
    raise NotImplementedError


@hookspec
def fg_models() -> list[Entry]:
    """Models: functions (options, input_shape, classes, generator) that return an `nn.Module`."""
    raise NotImplementedError


@hookspec
def fg_optimizers() -> list[Entry]:
    """Optimisers: functions (options, parameters, lr) that return a `torch.optim.Optimizer`."""
    raise NotImplementedError
