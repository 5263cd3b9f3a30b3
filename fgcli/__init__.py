"""fg: gradient estimation without backpropagation.

All that a script or a plugin needs is here, and is imported when it is first asked for: `import fgcli` alone brings
no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fgcli.api import ForwardGradient
    from fgcli.bench.executor import Executor, Outcome, Trial
    from fgcli.data.dataset import Dataset
    from fgcli.errors import FgError, UsageError
    from fgcli.extend.entry import Entry, Rank
    from fgcli.extend.hookspecs import CONTRACT, hookimpl
    from fgcli.extend.options import EngineOptions, GuessOptions, Options, TangentOptions
    from fgcli.extend.registry import load_registry
    from fgcli.gradient.engine import GuessEstimator
    from fgcli.gradient.errors import GuessFault, LossRefused, ModelRefused, OptionRefused
    from fgcli.gradient.estimator import Batch, Coverage, Estimate, Estimator, FindsFaults, Loss, SettlesOptions
    from fgcli.gradient.guess import GuessMethod, Isotropic, Layer, LinearMap, Memory, Needs, SampledGuess
    from fgcli.gradient.look import look
    from fgcli.gradient.randomness import StepRng, Streams
    from fgcli.gradient.sites import Network, Site
    from fgcli.gradient.tangents import Tangents
    from fgcli.gradient.upstream import LinearUpstream, UpstreamJacobian
    from fgcli.training.reporter import Plan
    from fgcli.training.sinks import MetricSink

__version__ = "0.1.0"

_HOMES = {
    "fgcli.api": ("ForwardGradient",),
    "fgcli.bench.executor": ("Executor", "Outcome", "Trial"),
    "fgcli.data.dataset": ("Dataset",),
    "fgcli.errors": ("FgError", "UsageError"),
    "fgcli.extend.entry": ("Entry", "Rank"),
    "fgcli.extend.hookspecs": ("CONTRACT", "hookimpl"),
    "fgcli.extend.options": ("EngineOptions", "GuessOptions", "Options", "TangentOptions"),
    "fgcli.extend.registry": ("load_registry",),
    "fgcli.gradient.engine": ("GuessEstimator",),
    "fgcli.gradient.errors": ("GuessFault", "LossRefused", "ModelRefused", "OptionRefused"),
    "fgcli.gradient.estimator": (
        "Batch",
        "Coverage",
        "Estimate",
        "Estimator",
        "FindsFaults",
        "Loss",
        "SettlesOptions",
    ),
    "fgcli.gradient.guess": ("GuessMethod", "Isotropic", "Layer", "LinearMap", "Memory", "Needs", "SampledGuess"),
    "fgcli.gradient.look": ("look",),
    "fgcli.gradient.randomness": ("StepRng", "Streams"),
    "fgcli.gradient.sites": ("Network", "Site"),
    "fgcli.gradient.tangents": ("Tangents",),
    "fgcli.gradient.upstream": ("LinearUpstream", "UpstreamJacobian"),
    "fgcli.training.reporter": ("Plan",),
    "fgcli.training.sinks": ("MetricSink",),
}
_WHERE = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted([*_WHERE, "__version__"])
