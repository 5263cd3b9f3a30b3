"""What `backward` alone sees or calls is refused by name by every method without it: it would be missing in silence."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from zoo import Net, weight

from fgcli import ForwardGradient
from fgcli.gradient.errors import LossRefused, ModelRefused

METHODS = ["activation-perturbation", "weight-perturbation", "spsa", "directional", "sofo"]


class Rounded(torch.autograd.Function):
    """Rounds, as if it did not."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Any) -> Tensor:
        return x.round()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0]

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return tangents[0].clone()


def chain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()


def layer_hook() -> nn.Module:
    model = chain()
    model[1].register_full_backward_hook(lambda _, given, __: (given[0] * 3,))
    return model


def parameter_hook() -> nn.Module:
    model = chain()
    model[0].get_parameter("weight").register_hook(lambda gradient: gradient * 0.5)
    return model


def tensor_hook() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.a(x)
        if h.requires_grad:
            h.register_hook(lambda gradient: -gradient)
        return m.b(h.tanh())

    return Net(forward, a=nn.Linear(4, 3), b=nn.Linear(3, 2)).double()


def gradient_within(m: Any, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    return m.b(torch.autograd.grad(m.a(x).tanh().sum(), x, create_graph=True)[0])


def changed(m: Any, x: Tensor) -> Tensor:
    w = m.a.weight * 1
    w[0] = 2 * w[1]
    return m.a(x) + torch.nn.functional.linear(x, w)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "layer": (layer_hook, r"layer '1' \(Tanh\) has a backward hook, .* or use backprop"),
    "parameter": (parameter_hook, r"parameter '0.weight' has a hook on its gradient .* or use backprop"),
    "forward": (tensor_hook, r"the forward registers a hook on a gradient .* or use backprop"),
    "function of a weight": (
        lambda: Net(lambda m, x: x @ Rounded.apply(m.w * 3), w=weight(4, 3)).double(),
        r"parameter 'w' is used after the model's input by an operation that no forward pass can look into",
    ),
    "gradient within": (
        lambda: Net(gradient_within, a=nn.Linear(4, 3), b=nn.Linear(4, 2)).double(),
        r"the forward takes a gradient itself, .* or use backprop",
    ),
    "torch.func": (
        lambda: Net(
            lambda m, x: torch.vmap(torch.func.grad(lambda s: m.a(s).tanh().sum()))(x), a=nn.Linear(4, 3)
        ).double(),
        r"parameter 'a.weight' is used within torch.func .* or use backprop",
    ),
    "complex": (
        lambda: Net(lambda m, x: (x.to(m.w.dtype) @ m.w).abs(), w=nn.Parameter(torch.ones(4, 3, dtype=torch.cdouble))),
        r"parameter 'w' is complex, .* use torch.view_as_complex\(w\), or use backprop",
    ),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused(name: str, method: str) -> None:
    make, said = REFUSED[name]
    x, y = torch.ones(3, 4, dtype=torch.double), torch.zeros(3, dtype=torch.long)
    with pytest.raises(ModelRefused, match=said):
        ForwardGradient(make(), method).step(x, y, nn.functional.cross_entropy)


def test_a_hook_that_no_method_calls_is_refused_by_backpropagation_too() -> None:
    model = chain()
    model[0].get_parameter("weight").register_post_accumulate_grad_hook(lambda _: None)
    with pytest.raises(ModelRefused, match=r"parameter '0.weight' has a hook that follows its gradient"):
        ForwardGradient(model, "backprop").step(torch.ones(3, 4).double(), torch.zeros(3, 2).double(), nn.MSELoss())


@pytest.mark.parametrize("method", ["activation-perturbation", "weight-perturbation"])
def test_a_complex_output_is_refused(method: str) -> None:
    model = Net(lambda m, x: (m.a(x), torch.fft.fft(m.a(x))), a=nn.Linear(4, 3))
    with pytest.raises(LossRefused, match=r"gives a complex tensor, .* torch.view_as_real"):
        ForwardGradient(model, method).step(
            torch.ones(3, 4), torch.ones(3), lambda o, _: o[0].mean() + o[1].abs().mean()
        )


class Counting(nn.Module):
    """Grows with each call."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls = nn.Linear(4, 3), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.layer(x) * self.calls


@pytest.mark.parametrize("method", ["activation-perturbation", "spsa"])
def test_a_forward_that_is_another_when_it_is_called_again_is_refused(method: str) -> None:
    with pytest.raises(ModelRefused, match=r"gives something else when it is called again .*register_buffer"):
        ForwardGradient(Counting(), method, tangents=2).step(torch.ones(3, 4), torch.ones(3, 3), nn.MSELoss())


@pytest.mark.parametrize("method", METHODS[1:])
def test_what_is_made_of_a_weight_and_changed_in_place_is_refused_where_it_has_a_stand_in(method: str) -> None:
    x, y = torch.ones(3, 4), torch.zeros(3, dtype=torch.long)
    with pytest.raises(ModelRefused, match=r"what is made of parameter 'a.weight' is changed in place"):
        ForwardGradient(Net(changed, a=nn.Linear(4, 9)), method).step(x, y, nn.functional.cross_entropy)


def test_an_operation_without_a_formula_is_named_in_a_graph_network_too() -> None:
    model = Net(
        lambda m, x: m.b(torch.sparse.mm(torch.eye(3).to_sparse(), m.a(x))), a=nn.Linear(4, 3), b=nn.Linear(3, 2)
    )
    with pytest.raises(ModelRefused, match=r"site 'a' is followed by _sparse_mm, which has no forward-mode formula"):
        ForwardGradient(model, "activation-perturbation").step(torch.ones(3, 4), torch.ones(3, 2), nn.MSELoss())
