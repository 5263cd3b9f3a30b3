"""One table of the registry: every method, with the options it is tested with and what it claims."""

from dataclasses import dataclass, field
from typing import Any

from fgcli.extend.registry import load_registry
from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.estimator import Estimator
from fgcli.methods.make import make_estimator


@dataclass(frozen=True)
class Claim:
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    unbiased: bool = False
    projector: bool = False
    """The covariance is an orthogonal projector."""

    @property
    def name(self) -> str:
        return "-".join([self.method, *(f"{key}={value}" for key, value in self.options.items())])

    def estimator(self) -> Estimator:
        kind, entry = load_registry().method(self.method)
        options = entry.options(**self.options)
        method = entry.load()(options)
        return method if kind == "estimator" else make_estimator(method, options, load_registry())

    def guess_estimator(self) -> GuessEstimator:
        estimator = self.estimator()
        assert isinstance(estimator, GuessEstimator)
        return estimator


GUESSES = [
    Claim("activation-perturbation", unbiased=True, projector=True),
    Claim("activation-perturbation-relu", unbiased=True, projector=True),
    Claim("wt"),
    Claim("wperp", {"k": 3, "solver": "ritz"}, projector=True),
    Claim("wperp", {"k": "rank", "solver": "ritz"}, unbiased=True, projector=True),
    Claim("wperp", {"k": 3, "solver": "shared"}, projector=True),
    Claim("wperp", {"k": "rank", "solver": "shared"}, unbiased=True, projector=True),
    Claim("wperp", {"k": 3, "solver": "svd"}, projector=True),
    Claim("wperp", {"k": "rank", "solver": "svd"}, unbiased=True, projector=True),
    Claim("wperp", {"k": 3, "solver": "krylov"}, projector=True),
    Claim("wperp", {"k": 3, "solver": "mean"}),
    Claim("wperp-bottom", {"k": 3}, projector=True),
    Claim("wpre", unbiased=True, projector=True),
    Claim("wperp-ns", {"k": 3, "solver": "gram"}),
    Claim("wperp-ns", {"k": 3, "solver": "batched"}),
    Claim("wperp-ns", {"k": 3, "solver": "krylov"}),
    Claim("wperp-ns", {"k": 3, "coeffs": "sign-cut", "solver": "gram"}),
    Claim("wperp-ns", {"k": 3, "coeffs": "sign-cut", "solver": "batched"}),
    Claim("wperp-ns", {"k": 3, "coeffs": "sign-cut", "solver": "krylov"}),
    Claim("wperp-ns", {"k": 3, "coeffs": "polar-express"}),
]
ESTIMATORS = [
    Claim("backprop", unbiased=True),
    Claim("weight-perturbation", unbiased=True),
    Claim("backprop-checkpoint", unbiased=True),
    Claim("spsa", {"tangents": 4}),
    Claim("mezo", {"tangents": 4}),
    Claim("fzoo"),
    Claim("pepita"),
    Claim("directional"),
    Claim("local-gradient"),
    Claim("sofo"),
]
