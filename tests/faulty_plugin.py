# type: ignore -- each of these breaks the contract in a way of its own
"""A plugin that misbehaves, for tests/training/test_faulty_plugins.py, which gives it the name faulty."""

import torch

from fgcli import Entry, GuessMethod, GuessOptions, LinearMap, Options, SampledGuess, hookimpl
from fgcli.methods.options import WeightPerturbationOptions
from fgcli.methods.perturbation import ActivationPerturbation
from fgcli.methods.transpose import Transpose
from fgcli.methods.weight_perturbation import WeightPerturbation

FG_CONTRACT = 2
STEP, SITE = 4, "hidden2"


def entries(kind, names, options):
    return [Entry(name, f"faulty:{name}", f"A {kind}.", options) for name in names]


@hookimpl
def fg_guess_methods():
    names = ["Sound", "Shape", "Dtype", "Graph", "Number", "Raises", "Prepare", "Noise", "Nan", "Masked", "Sampled"]
    names += ["Leaves", "Memory", "Sparse", "NoMap"]
    names += ["NoMethod", "Constructor", "Exits", "Needs", "NotLinear", "Abstract"]
    return entries("guess", names, GuessOptions)


@hookimpl
def fg_estimators():
    names = ["EstimatorRaises", "Unknown", "GradientShape", "Nothing", "Bind", "Unbound", "State"]
    return entries("estimator", names, WeightPerturbationOptions)


@hookimpl
def fg_models():
    return entries("model", ["NoModule", "ModelRaises", "ForwardRaises", "FewOutputs"], Options)


@hookimpl
def fg_datasets():
    return entries("dataset", ["NoDataset"], Options)


@hookimpl
def fg_optimizers():
    return entries("optimizer", ["NoOptimizer", "StepRaises"], Options)


@hookimpl
def fg_losses():
    return entries("loss", ["NoLoss", "LossRaises", "LossShape"], Options)


@hookimpl
def fg_lr_schedules():
    return entries("schedule", ["NoSchedule", "ScheduleRaises"], Options)


def NoLoss(options, dataset):
    return None


def LossRaises(options, dataset):
    def loss(outputs, targets):
        raise ValueError("no luck")

    return loss


def LossShape(options, dataset):
    return lambda outputs, targets: outputs


def NoSchedule(options, optimizer, total_steps, steps_per_epoch):
    return 0.5


class ScheduleRaises(torch.optim.lr_scheduler.LRScheduler):
    def __init__(self, options, optimizer, total_steps, steps_per_epoch):
        super().__init__(optimizer)

    def get_lr(self):
        if self.last_epoch == 2:
            raise ValueError("no luck")
        return self.base_lrs


def is_here(layer):
    return (layer.step, layer.name) == (STEP, SITE)


class Sound(Transpose):
    def linearize(self, layer, upstream, prepared):
        linear = super().linearize(layer, upstream, prepared)
        if not is_here(layer):
            return linear
        return LinearMap(linear.noise_dim, lambda z: self.spoil(linear.map(z)))

    def spoil(self, y):
        return y


class Shape(Sound):
    def spoil(self, y):
        return y[:, 1:]


class Dtype(Sound):
    def spoil(self, y):
        return y.double()


class Graph(Sound):
    def spoil(self, y):
        return y.clone().requires_grad_()


class Number(Sound):
    def spoil(self, y):
        return 3


class Raises(Sound):
    def spoil(self, y):
        raise ValueError("no luck")


class Prepare(Sound):
    def prepare(self, layer, memory):
        if is_here(layer):
            raise ValueError("no luck")


class Noise(Sound):
    def linearize(self, layer, upstream, prepared):
        linear = super().linearize(layer, upstream, prepared)
        return LinearMap("many" if is_here(layer) else linear.noise_dim, linear.map)


class NoMap(Sound):
    def linearize(self, layer, upstream, prepared):
        linear = super().linearize(layer, upstream, prepared)
        return linear.map if is_here(layer) else linear


class Leaves(Sound):
    def spoil(self, y):
        raise SystemExit(0)


class Sparse(Sound):
    def spoil(self, y):
        return y.to_sparse()


class Memory(Sound):
    def prepare(self, layer, memory):
        if is_here(layer):
            memory["count"] = 3


class Nan(Sound):
    def spoil(self, y):
        return y * torch.nan


class Masked(ActivationPerturbation):
    """NaN where ReLU is off: it does not reach the loss's tangent."""

    needs = "matrix"

    def linearize(self, layer, upstream, prepared):
        if not is_here(layer):
            return super().linearize(layer, upstream, prepared)
        off = (upstream.slope == 0).unsqueeze(-1)
        return LinearMap(layer.dim, lambda z: z.masked_fill(off if z.dim() == 3 else off.squeeze(-1), torch.nan))


class Sampled(SampledGuess):
    needs = "nothing"

    def __init__(self, options):
        pass

    def sample(self, layer, upstream, prepared, generator):
        y = torch.randn(layer.output.shape, generator=generator)
        return y * torch.inf if is_here(layer) else y


class NoMethod:
    needs = "nothing"

    def __init__(self, options):
        pass


class Constructor:
    def __init__(self, options):
        raise ValueError("no luck")


class Exits:
    def __init__(self, options):
        raise SystemExit(0)


class Needs(Sound):
    needs = "all"


class NotLinear(Transpose):
    def linearize(self, layer, upstream, prepared):
        return LinearMap(upstream.output_dim, lambda z: upstream.apply_transpose(z) + 1)


class Abstract(GuessMethod):
    def __init__(self, options):
        pass


class EstimatorRaises(WeightPerturbation):
    def estimate(self, model, loss, batch, rng):
        if rng.step == STEP:
            raise ValueError("no luck")
        return super().estimate(model, loss, batch, rng)


class Unknown(WeightPerturbation):
    def estimate(self, model, loss, batch, rng):
        estimate = super().estimate(model, loss, batch, rng)
        return estimate if rng.step < STEP else type(estimate)(estimate.losses, {"x": estimate.losses})


class GradientShape(WeightPerturbation):
    def estimate(self, model, loss, batch, rng):
        estimate = super().estimate(model, loss, batch, rng)
        gradients = {name: g if rng.step < STEP else g.T for name, g in estimate.gradients.items()}
        return type(estimate)(estimate.losses, gradients)


class Nothing(WeightPerturbation):
    def estimate(self, model, loss, batch, rng):
        return super().estimate(model, loss, batch, rng) if rng.step < STEP else None


class Bind(WeightPerturbation):
    def bind(self, model, example):
        raise ValueError("no luck")


class Unbound(WeightPerturbation):
    def bind(self, model, example):
        return None


class State(WeightPerturbation):
    def state(self):
        return {"count": 3}


def NoModule(options, input_shape, classes, generator):
    return []


def ModelRaises(options, input_shape, classes, generator):
    raise ValueError("no luck")


class Spoilt(torch.nn.Linear):
    def forward(self, x):
        raise ValueError("no luck")


def ForwardRaises(options, input_shape, classes, generator):
    return Spoilt(40, classes)


def FewOutputs(options, input_shape, classes, generator):
    return torch.nn.Linear(40, 4)


def NoDataset(options):
    return None


def NoOptimizer(options, parameters, lr):
    return None


class StepRaises(torch.optim.SGD):
    def __init__(self, options, parameters, lr):
        super().__init__(parameters, lr=lr)

    def step(self, closure=None):
        raise ValueError("no luck")
