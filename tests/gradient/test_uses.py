"""What `backward` stops at and a tangent does not."""

import pytest
import torch
from torch import Tensor, nn

from fgcli.extend.options import Options
from fgcli.gradient.errors import ModelRefused
from fgcli.gradient.estimator import Estimator
from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.guess import Isotropic
from fgcli.methods.weight_perturbation import WeightPerturbation


class Signed(torch.autograd.Function):
    """Has a formula of its own. torch turns gradients off within its forward."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return x.sign() * x

    @staticmethod
    def setup_context(ctx: object, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def jvp(ctx: object, *tangents: Tensor) -> Tensor:
        return tangents[0].clone()


class Gated(nn.Module):
    """Computes within no_grad, or inference mode, what the name of `use` says."""

    def __init__(self, use: str) -> None:
        super().__init__()
        self.use = use
        self.hidden, self.gate, self.output = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.embedding = nn.Embedding(3, 4, max_norm=0.5)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.hidden(x))
        match self.use:
            case "gate" | "detached outside":
                with torch.no_grad():
                    g = torch.sigmoid(self.gate(h))
                h = h * (g if self.use == "gate" else g.detach())
            case "weight":
                with torch.no_grad():
                    scale = self.embedding.weight.norm()
                h = h * scale
            case "in place":
                with torch.no_grad():
                    h.mul_(2)
            case "written into another":
                kept = torch.zeros_like(h)
                with torch.no_grad():
                    kept[:, 1:] = h[:, 1:]
                h = h + kept
            case "inference":
                with torch.inference_mode():
                    g = torch.sigmoid(self.gate(h))
                h = h * g
            case "no tangent":
                with torch.no_grad():
                    signs, zeros, largest = h.sign(), torch.zeros_like(h), h.detach().abs().max(1, True)[0]
                h = h * (signs + zeros) / largest
            case "detached within":
                with torch.no_grad():
                    g = self.gate(h).detach()
                h = h * g
            case "layers of torch":
                attended = self.attention(h[:, None], h[:, None], h[:, None])[0].squeeze(1)
                h = Signed.apply(attended + self.embedding(torch.zeros(len(h), dtype=torch.long)))
            case _:
                raise ValueError(self.use)
        return self.output(h)


class Whole(nn.Sequential):
    @torch.no_grad()
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input)


def layers() -> list[nn.Module]:
    return [nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)]


ESTIMATORS = pytest.mark.parametrize("estimator", [GuessEstimator(Isotropic()), WeightPerturbation(Options())])
X = torch.tensor([[1.0, 2.0, 0.0, -1.0], [0.5, -1.0, 2.0, 1.0]])


@ESTIMATORS
@pytest.mark.parametrize(
    ("use", "operation"),
    [("gate", "sigmoid"), ("weight", "norm"), ("in place", "mul_"), ("written into another", "__setitem__")],
)
def test_what_is_computed_within_no_grad_and_used_outside_is_refused(
    use: str, operation: str, estimator: Estimator
) -> None:
    said = rf"^layer '1' \(Gated\) computes '{operation}' within torch.no_grad\(\) and .* use .detach\(\)"
    with pytest.raises(ModelRefused, match=said):
        estimator.bind(nn.Sequential(nn.Linear(4, 4), Gated(use)), X)


@ESTIMATORS
def test_what_backward_and_tangents_agree_on_is_not_refused(estimator: Estimator) -> None:
    frozen = nn.Sequential(Whole(*layers()).requires_grad_(False), nn.Linear(4, 4))
    uses = ("detached outside", "detached within", "no tangent", "layers of torch")
    for model in (*map(Gated, uses), frozen, Whole(*layers())):
        estimator.bind(model, X)
        with torch.no_grad():
            estimator.bind(model, X)


def test_what_is_computed_in_inference_mode_is_refused() -> None:
    class WholeInference(nn.Sequential):
        @torch.inference_mode()
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input)

    with pytest.raises(ModelRefused, match=r"the output of site 'gate' is computed within torch.inference_mode\(\)"):
        GuessEstimator(Isotropic()).bind(Gated("inference"), X)
    with pytest.raises(ModelRefused, match=r"the model's output is computed within torch.inference_mode\(\)"):
        WeightPerturbation(Options()).bind(WholeInference(*layers()), X)
