import pytest
import torch
from networks import batch_for, chain, cross_entropy, residual
from networks import site_gradients as by_hooks

from fgcli.diagnostics.gradients import parameter_gradients, site_gradients, squares_per_sample
from fgcli.gradient.estimator import Batch
from fgcli.gradient.look import look


def test_site_gradients_are_those_of_the_outputs():
    model, sites = residual(), ("conv", "grouped", "enter", "inner", "leave")
    batch = batch_for(model, 5)
    found = site_gradients(model, look(model, batch.inputs), cross_entropy, batch)
    for name, expected in by_hooks(model, batch, sites).items():
        torch.testing.assert_close(found[name], expected)


def test_site_gradients_need_no_parameter_that_requires_grad():
    model = chain(5, 7, 4)
    batch = batch_for(model, 3)
    network = look(model, batch.inputs)
    expected = site_gradients(model, network, cross_entropy, batch)
    assert list(expected) == ["0", "2"]
    model.requires_grad_(False)
    with torch.no_grad():  # as in a run
        found = site_gradients(model, network, cross_entropy, batch)
    for name, g in expected.items():
        torch.testing.assert_close(found[name], g)


def test_parameter_gradients_leave_grad_alone():
    model = chain(5, 7, 4)
    batch = batch_for(model, 3)
    found = parameter_gradients(model, cross_entropy, batch)
    assert all(parameter.grad is None for parameter in model.parameters())
    cross_entropy(model(batch.inputs), batch.targets).mean().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad)


def test_squares_per_sample_are_those_of_each_samples_share():
    model = residual()
    batch = batch_for(model, 4)
    names = ["norm.weight", "norm.bias"]
    found = squares_per_sample(model, cross_entropy, batch, names)
    for b in range(4):
        one = Batch(batch.inputs[b : b + 1], batch.targets[b : b + 1])
        of_one = parameter_gradients(model, cross_entropy, one)
        expected = sum(float((of_one[name] / 4).square().sum()) for name in names)
        assert float(found[b]) == pytest.approx(expected)
    assert squares_per_sample(model, cross_entropy, batch, []).tolist() == [0, 0, 0, 0]
