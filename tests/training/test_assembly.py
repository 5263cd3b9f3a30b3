import pytest
import torch
from tiny_runs import tiny_recipe

from fgcli.errors import UsageError
from fgcli.extend.registry import load_registry
from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.errors import ModelRefused
from fgcli.gradient.low_precision import LowPrecision
from fgcli.gradient.micro_batch import MicroBatched
from fgcli.methods.backprop import Backprop
from fgcli.training.assembly import assemble, settle


def test_guess_method_is_driven_and_estimator_stands_alone():
    guess = assemble(
        tiny_recipe(method="wt", memory="replay", options={"uncovered": "freeze"}), load_registry()
    ).estimator
    assert isinstance(guess, GuessEstimator)
    assert (guess.uncovered, guess.memory) == ("freeze", "replay")
    assert isinstance(assemble(tiny_recipe(method="backprop"), load_registry()).estimator, Backprop)


def test_parts_and_precision_are_around_any_estimator(monkeypatch):
    estimator = assemble(tiny_recipe(method="backprop", micro_batch=9, precision="bfloat16"), load_registry()).estimator
    assert isinstance(estimator, MicroBatched)
    assert estimator.size == 9
    assert isinstance(estimator.estimator, LowPrecision)
    assert estimator.estimator.dtype == torch.bfloat16
    monkeypatch.setattr("fgcli.training.assembly.lacks", lambda device, dtype: f"no {dtype}")
    said = r"--precision is float16, which cpu has not \(no torch.float16\); use float32"
    with pytest.raises(UsageError, match=said):
        assemble(tiny_recipe(precision="float16"), load_registry())


def test_recipe_is_followed():
    recipe = tiny_recipe(width=7, depth=4, bias=True, optimizer="sgd", optimizer_options={"momentum": 0.5}, lr=0.25)
    assembly = assemble(recipe, load_registry())
    assert [tuple(p.shape) for p in assembly.model.parameters()] == [
        (7, 40), (7,), (7, 7), (7,), (7, 7), (7,), (7, 7), (7,), (10, 7), (10,),
    ]  # fmt: skip
    group = assembly.optimizer.param_groups[0]
    assert (type(assembly.optimizer), group["lr"], group["momentum"]) == (torch.optim.SGD, 0.25, 0.5)
    assert torch.get_num_threads() == 1


def test_weights_come_from_the_seed_alone():
    torch.manual_seed(1)
    first = assemble(tiny_recipe(seed=3), load_registry())
    torch.manual_seed(2)
    same, other = (assemble(tiny_recipe(seed=seed), load_registry()) for seed in (3, 4))
    weight = next(first.model.parameters())
    assert torch.equal(weight, next(same.model.parameters()))
    assert not torch.equal(weight, next(other.model.parameters()))


def test_what_is_left_to_the_machine_is_settled():
    settled = settle(tiny_recipe(device="auto", threads=None), load_registry())
    assert (settled.device, settled.threads) == (str(torch.device(settled.device)), torch.get_num_threads())
    assert settled.device != "auto"
    assert settle(settled, load_registry()) == settled


def test_absent_device_is_refused():
    with pytest.raises(UsageError, match=r"device cuda:99 is absent; present: .*cpu"):
        settle(tiny_recipe(device="cuda:99"), load_registry())


def test_batch_larger_than_the_data_is_refused():
    assert assemble(tiny_recipe(batch_size=80), load_registry())
    with pytest.raises(UsageError, match="--batch-size is 81; it must be at most 80, the training samples of mnist1d"):
        assemble(tiny_recipe(batch_size=81), load_registry())


def test_more_orthogonal_tangents_than_the_guess_space_has_dimensions_are_refused():
    recipe = tiny_recipe(method="wperp", k=2, tangents=99, combine="orthogonal")
    said = r"method wperp with model mlp: tangents is 99; .* at most \d+ here, the dimension of the guess space"
    with pytest.raises(UsageError, match=said):
        assemble(recipe, load_registry())


def test_refused_model_is_a_usage_error(monkeypatch):
    def refuse(*_):
        raise ModelRefused("site 'conv1' has no upstream Jacobian")

    monkeypatch.setattr(GuessEstimator, "bind", refuse)
    with pytest.raises(UsageError, match="method wt cannot train model mlp: site 'conv1' has no upstream Jacobian"):
        assemble(tiny_recipe(), load_registry())


@pytest.mark.parametrize(
    ("method", "sites"),
    [("backprop", ()), ("weight-perturbation", ()), ("wt", ("hidden1", "hidden2", "output"))],
)
def test_sites_are_layers_whose_outputs_are_perturbed(method, sites):
    assert assemble(tiny_recipe(method=method), load_registry()).coverage.sites == sites
