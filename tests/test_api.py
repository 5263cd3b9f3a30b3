"""The Python API. Where K orthogonal tangents span the guess space, an estimate is the gradient itself: the oracle here
is `backward`, on the user's own call of the loss."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import chain
from torch import Tensor, nn

from fgcli import (
    Coverage,
    ForwardGradient,
    Isotropic,
    LossRefused,
    ModelRefused,
    OptionRefused,
    Options,
    UsageError,
)
from fgcli.methods.backprop import Backprop

DIM = 6 + 4  # of the guess space of `small`


def small() -> nn.Sequential:
    return chain(5, 6, 4, bias=True)


def batch(size: int = 3, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(size, 5, generator=generator, dtype=torch.float64)
    return inputs, torch.arange(size) % 4


def exact(model: nn.Module, loss: Callable[[nn.Module], Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(loss(model), list(model.parameters())))


def given(model: nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def exactly(method: str) -> dict[str, Any]:
    """Options by which a method gives the gradient itself, whatever is drawn."""
    numbers = {"backprop": None, "activation-perturbation": DIM, "weight-perturbation": 6 * 5 + 6 + 4 * 6 + 4}
    return {} if numbers[method] is None else {"tangents": numbers[method], "combine": "orthogonal"}


WEIGHTS = torch.tensor([0.3, 1.0, 2.0, 0.7], dtype=torch.float64)
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "function": F.cross_entropy,
    "module": nn.CrossEntropyLoss(),
    "class weights": partial(F.cross_entropy, weight=WEIGHTS),
    "ignored targets": nn.CrossEntropyLoss(ignore_index=1, label_smoothing=0.1),
    "likelihood": lambda outputs, targets: F.nll_loss(outputs.log_softmax(1), targets, reduction="none"),
    "elementwise": partial(F.mse_loss),
    "elementwise module": nn.SmoothL1Loss(),
    "a sum": partial(F.cross_entropy, reduction="sum"),
    "multi margin": F.multi_margin_loss,
    "samples that see each other": lambda outputs, _: F.cross_entropy(outputs @ outputs.T, torch.arange(len(outputs))),
    "a weight for each sample": lambda outputs, targets: (
        torch.arange(1.0, 4.0, dtype=torch.float64) * F.cross_entropy(outputs, targets, reduction="none")
    ),
}


@pytest.mark.parametrize("method", ["backprop", "activation-perturbation", "weight-perturbation"])
@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_is_that_of_the_users_own_mean_loss(name: str, method: str) -> None:
    model, (x, y), loss_fn = small(), batch(), LOSSES[name]
    if "elementwise" in name:
        y = F.one_hot(y, 4).double()
    expected = exact(model, lambda model: loss_fn(model(x), y).mean())
    loss = ForwardGradient(model, method, **exactly(method)).step(x, y, loss_fn)
    torch.testing.assert_close(loss, loss_fn(model(x), y).mean().detach())
    torch.testing.assert_close(given(model), expected)


FORMS: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda x: x,
    "tuple": lambda x: (x,),
    "mapping": lambda x: {"input": x},
}


@pytest.mark.parametrize("method", ["backprop", "activation-perturbation", "weight-perturbation"])
@pytest.mark.parametrize("form", FORMS)
def test_inputs_are_a_tensor_a_tuple_or_a_mapping(form: str, method: str) -> None:
    model, (x, y) = small(), batch()
    expected = exact(model, lambda model: F.cross_entropy(model(x), y))
    loss = ForwardGradient(model, method, **exactly(method)).step(FORMS[form](x), y, F.cross_entropy)
    torch.testing.assert_close(loss, F.cross_entropy(model(x), y).detach())
    torch.testing.assert_close(given(model), expected)


def test_a_batch_of_ignored_targets_alone_is_nan_as_torch_has_it() -> None:
    for method in ("backprop", "activation-perturbation"):
        model, (x, _) = small(), batch(2)
        assert ForwardGradient(model, method).step(x, torch.tensor([-100, -100]), F.cross_entropy).isnan()


def test_gradients_accumulate_as_those_of_backward() -> None:
    model, (x, y) = small(), batch(4)
    gradient = ForwardGradient(model, "backprop")
    for _ in range(2):
        gradient.step(x, y, F.cross_entropy)
    torch.testing.assert_close(given(model), [2 * g for g in exact(model, lambda m: F.cross_entropy(m(x), y))])
    model.zero_grad()
    for part in (slice(0, 2), slice(2, 4)):  # micro-batches
        gradient.step(x[part], y[part], F.cross_entropy)
    torch.testing.assert_close(given(model), [2 * g for g in exact(model, lambda m: F.cross_entropy(m(x), y))])


def losses_of(model: nn.Module, gradient: ForwardGradient, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        found.append(gradient.step(*batch(8), F.cross_entropy).item())
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return found


def test_a_loop_that_is_taken_up_again_goes_on_to_the_same_bits() -> None:
    model = small()
    options: dict[str, Any] = {"method": "wperp", "k": 2, "tangents": 2, "refresh": 3}
    gradient, optimizer = ForwardGradient(model, **options, seed=4), torch.optim.Adam(model.parameters(), lr=0.01)
    before = torch.get_rng_state()
    losses_of(model, gradient, optimizer, 4)
    assert torch.equal(torch.get_rng_state(), before)
    kept = copy.deepcopy((model.state_dict(), gradient.state_dict(), optimizer.state_dict()))
    assert kept[1]["steps"] == 4
    assert kept[1]["kept"]
    expected = losses_of(model, gradient, optimizer, 5)

    again = small()
    resumed = ForwardGradient(again, **options, seed=0)
    other = torch.optim.Adam(again.parameters(), lr=0.01)
    for one, state in zip((again, resumed, other), kept, strict=True):
        one.load_state_dict(state)
    assert resumed.state_dict() == kept[1]
    assert losses_of(again, resumed, other, 5) == expected
    assert losses_of(again, ForwardGradient(again, **options, seed=4), other, 3) != expected[:3]


def test_layers_that_draw_do_so_from_torchs_own_generator_in_steps_alone() -> None:
    model = nn.Sequential(*small(), nn.Dropout())
    gradient, found = ForwardGradient(model, "activation-perturbation"), []
    gradient.step(*batch(8), F.cross_entropy)
    state, drawn = gradient.state_dict(), torch.get_rng_state()
    again = ForwardGradient(model, "activation-perturbation")
    again.load_state_dict(state)
    for one in (gradient, again):  # the second looks the model over first
        model.zero_grad()
        torch.set_rng_state(drawn)
        one.step(*batch(8), F.cross_entropy)
        found.append(given(model))
    assert not torch.equal(torch.get_rng_state(), drawn)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_the_state_of_another_method_or_model_is_refused() -> None:
    model, (x, y) = small(), batch()
    gradient = ForwardGradient(model, "wperp", k=2)
    gradient.step(x, y, F.cross_entropy)
    state = gradient.state_dict()
    with pytest.raises(UsageError, match=r"^the state is that of the method wperp; the method here is wt$"):
        ForwardGradient(model, "wt").load_state_dict(state)
    with pytest.raises(
        UsageError, match=r"^the state has the keys \['0.bias', .*\]; one of ForwardGradient has \['kept'"
    ):
        gradient.load_state_dict(dict(model.state_dict()))
    other = ForwardGradient(nn.Sequential(nn.Flatten(), *model), "wperp", k=2)
    other.load_state_dict(state)
    with pytest.raises(
        ModelRefused, match=r"the state holds 0/left, but the model has no site '0'; it is another model's"
    ):
        other.step(x, y, F.cross_entropy)


def test_it_says_what_it_is() -> None:
    gradient = ForwardGradient(small(), "wt", seed=3)
    assert repr(gradient) == "ForwardGradient(wt, seed 3, step 0)"
    gradient.step(*batch(), F.cross_entropy)
    assert repr(gradient) == "ForwardGradient(wt, seed 3, step 1, 2 sites)"


def test_every_step_draws_anew_and_every_seed_differently() -> None:
    found = []
    for seed in (0, 0, 1):
        model = small()
        gradient = ForwardGradient(model, "activation-perturbation", seed=seed)
        for _ in range(2):
            model.zero_grad()
            gradient.step(*batch(), F.cross_entropy)
            found.append(given(model)[0])
    assert torch.equal(found[0], found[2])
    assert all(not torch.equal(found[0], found[i]) for i in (1, 4, 5))


@pytest.mark.parametrize("method", ["wt", "wperp", "wperp-ns"])  # the last two start where the last step ended
def test_what_changes_between_steps_is_noticed(method: str) -> None:
    layers = [nn.Conv1d(1, 2, 3), nn.GroupNorm(1, 2), nn.Dropout().eval(), nn.Conv1d(2, 2, 3), nn.AdaptiveAvgPool1d(1)]
    model = nn.Sequential(*layers, nn.Flatten()).double()
    gradient, y = ForwardGradient(model, method), torch.tensor([0, 1])

    def step(length: int) -> Coverage | None:
        gradient.step(torch.randn(2, 1, length, dtype=torch.float64), y, F.cross_entropy)
        return gradient.coverage

    assert step(7) == step(9) == Coverage(("0", "3"), ("1.weight", "1.bias"))  # though its sites have other shapes
    model[1].requires_grad_(False)
    model.zero_grad()
    assert step(9) == Coverage(("0", "3"))
    assert model[1].weight.grad is None
    model.train()
    assert step(9) == Coverage(("0", "3"))  # Dropout draws the same in all passes of a step


@pytest.mark.parametrize(
    ("method", "options"),
    [*(("wperp", {"k": 2, "solver": solver}) for solver in ("ritz", "krylov", "mean")), ("wperp-ns", {"k": 2})],
)
def test_a_loop_goes_on_in_another_precision(method: str, options: dict[str, Any]) -> None:
    model, (x, y) = small(), batch()
    gradient = ForwardGradient(model, method, **options)
    for dtype in (torch.float64, torch.float32, torch.float64):
        model.to(dtype)
        model.zero_grad()
        for _ in range(2):
            gradient.step(x.to(dtype), y, F.cross_entropy)
        assert all(g.isfinite().all() and g.any() for g in given(model))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, of its own compiler
@pytest.mark.parametrize("method", ["activation-perturbation", "weight-perturbation"])
def test_compiled_models_and_wrappers_for_several_devices_are_refused(method: str) -> None:
    compiled = small()
    compiled[0].compile()
    for model, said in (
        (torch.compile(small()), r"^the model \(OptimizedModule\) is compiled, .* \(its _orig_mod\)"),
        (compiled, r"^layer '0' \(Linear\) is compiled, .* leave out .compile\(\)"),
        (nn.DataParallel(small()), r"^the model \(DataParallel\) spreads a batch .*: use its .module$"),
    ):
        with pytest.raises(ModelRefused, match=said):
            ForwardGradient(model, method).step(*batch(), F.cross_entropy)  # pyright: ignore[reportArgumentType]


def test_instances_are_methods_too() -> None:
    x, y = batch()
    for method, options in ((Backprop(Options()), {}), (Isotropic(), {"tangents": DIM, "combine": "orthogonal"})):
        model = small()
        ForwardGradient(model, method, **options).step(x, y, F.cross_entropy)
        torch.testing.assert_close(given(model), exact(model, lambda model: F.cross_entropy(model(x), y)))


@pytest.mark.parametrize(
    ("error", "arguments", "said"),
    [
        (
            UsageError,
            {"method": "wperb"},
            r"^unknown method 'wperb'; did you mean 'wperp'\? known methods: ",
        ),
        (UsageError, {"tangets": 3}, r"^unknown option 'tangets' of method wperp; did you mean 'tangents'\?"),
        (UsageError, {"tangents": 0}, r"^tangents is 0; it must be at least 1$"),
        (UsageError, {"tangents": 3, "draws": "antithetic"}, r"^method wperp: tangents is 3; with draws antithetic it"),
        (
            UsageError,
            {"method": Isotropic},
            r"^method is the class Isotropic; it must be an instance, or the name of a",
        ),
        (UsageError, {"method": Backprop(Options()), "k": 3}, r"^k is given, but an estimator's instance has its opti"),
        (
            TypeError,
            {"method": 3},
            r"^int is no guess method: it must derive from GuessMethod",
        ),
    ],
)
def test_a_method_that_cannot_be_had(error: type[Exception], arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(error, match=said):
        ForwardGradient(small(), **arguments)


def test_more_orthogonal_tangents_than_there_are_dimensions() -> None:
    gradient = ForwardGradient(small(), "activation-perturbation", tangents=DIM + 1, combine="orthogonal")
    with pytest.raises(OptionRefused, match=r"tangents is 11; combine orthogonal takes at most 10 here"):
        gradient.step(*batch(), F.cross_entropy)


@pytest.mark.parametrize("method", ["activation-perturbation", "weight-perturbation", "backprop"])
@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (
            {"loss_fn": lambda *_: 1.0},
            LossRefused,
            r"^the loss gave float; it must give a tensor of numbers: the mean, or",
        ),
        ({"loss_fn": lambda s, _: s.argmax(1)}, LossRefused, r"^the loss gave torch.int64; it must give a tensor"),
        ({"loss_fn": lambda s, _: s.detach().sum(1)}, LossRefused, r"^the loss has no derivative with respect to the"),
        (
            {"y": torch.zeros(2)},
            UsageError,
            r"^x and y are a tensor \[3, 5\] and a tensor \[2\]: not the same number of",
        ),
        (
            {"x": [1, 2, 3]},
            UsageError,
            r"^x is a list; it must be a tensor \[batch, ...\], or a tuple or mapping of tens",
        ),
        ({"x": torch.zeros(0, 5), "y": torch.zeros(0)}, UsageError, r"^x is a tensor \[0, 5\]; it must be a tensor"),
    ],
)
def test_inputs_and_losses_that_are_refused(
    change: dict[str, Any], error: type[Exception], said: str, method: str
) -> None:
    x, y = batch()
    with pytest.raises(error, match=said):
        ForwardGradient(small(), method).step(**{"x": x, "y": y, "loss_fn": F.cross_entropy} | change)


@pytest.mark.parametrize("tangents", [1, 2])
def test_replay_in_parts_has_the_mean_of_the_whole_batch(tangents: int) -> None:
    """Ignored targets lie unevenly in the parts of 512, one of which has nothing else."""
    x = torch.randn(1100, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.arange(1100) % 4
    y[300:1000] = -100
    loss_fn = partial(F.cross_entropy, weight=torch.tensor([1.0, 2.0, 3.0, 0.5], dtype=torch.float64))
    found = []
    for memory in ("store", "replay"):
        model = small()
        loss = ForwardGradient(model, "activation-perturbation", memory=memory, tangents=tangents).step(x, y, loss_fn)
        found.append([loss, *given(model)])
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0][0], loss_fn(small()(x), y).detach())


def test_inference_mode_is_refused() -> None:
    with torch.inference_mode(), pytest.raises(UsageError, match=r"torch.inference_mode\(\), which has no tangents"):
        ForwardGradient(nn.Linear(3, 2)).step(torch.zeros(4, 3), torch.zeros(4, 2), F.mse_loss)


def test_a_fault_of_the_loss_itself_is_left_as_it_is() -> None:
    with pytest.raises(RuntimeError, match="The size of tensor a"):
        ForwardGradient(small(), "activation-perturbation").step(*batch(), lambda s, t: s.sum(1) + torch.zeros(2))


def test_a_model_with_nothing_to_train_is_refused() -> None:
    for method in ("wt", "weight-perturbation", "backprop"):
        gradient = ForwardGradient(small().requires_grad_(False), method)
        with pytest.raises(ModelRefused, match=r"^no parameter of the model \(Sequential\) requires a gradient"):
            gradient.step(*batch(), F.cross_entropy)


def test_weights_in_low_precision_are_refused() -> None:
    x, y = batch()
    gradient = ForwardGradient(small().bfloat16(), "wt")
    with pytest.raises(
        ModelRefused, match=r"parameter '0.weight' is in bfloat16, .* keep .* float32 \(model.float\(\)\)"
    ):
        gradient.step(x.bfloat16(), y, F.cross_entropy)


@pytest.mark.parametrize("method", ["activation-perturbation", "weight-perturbation"])
@pytest.mark.parametrize("tangents", [1, 2])
def test_an_embeddings_padding_is_not_trained(method: str, tangents: int) -> None:
    embedding = nn.Embedding(6, 4, padding_idx=1)
    model = nn.Sequential(embedding, nn.Flatten(), nn.Linear(8, 3))
    x, y = torch.tensor([[1, 2], [3, 1], [1, 1], [4, 5]]), torch.arange(4) % 3
    ForwardGradient(model, method, tangents=tangents).step(x, y, nn.functional.cross_entropy)
    found = embedding.weight.grad
    assert found is not None
    assert not found[1].any()
    assert found[[2, 3]].any(1).all()


def test_a_hook_that_comes_later_is_followed() -> None:
    model, (x, y) = nn.Sequential(nn.Linear(5, 4)).double(), batch()
    gradient = ForwardGradient(model, "activation-perturbation", tangents=4, combine="orthogonal")
    gradient.step(x, y, F.cross_entropy)
    model[0].register_forward_hook(lambda _, __, output: -output)
    model.zero_grad()
    gradient.step(x, y, F.cross_entropy)
    torch.testing.assert_close(given(model), exact(model, lambda model: F.cross_entropy(model(x), y)))


def test_a_parameter_without_a_shape_and_an_impossible_seed_are_refused() -> None:
    with pytest.raises(ModelRefused, match=r"parameter '0.weight' has no shape .* call the model once"):
        ForwardGradient(nn.Sequential(nn.LazyLinear(3)), "weight-perturbation").step(*batch(), F.cross_entropy)
    for seed in (-1, 2**63, "a", 0.5):
        with pytest.raises(UsageError, match=r"^seed is .*; it must be a whole number from 0"):
            ForwardGradient(small(), seed=seed)  # pyright: ignore[reportArgumentType]
