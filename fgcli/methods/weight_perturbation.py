"""Weight perturbation: forward gradients in weight space (Baydin et al. 2022, arXiv:2202.08587)."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn

from fgcli.gradient.allocator import keep_freed_memory
from fgcli.gradient.buffers import BufferState, state_of, untouched
from fgcli.gradient.checks import FORWARD_MODE, refuse
from fgcli.gradient.checks.unsteady import refuse_unsteady
from fgcli.gradient.connections import Shapes
from fgcli.gradient.errors import OptionRefused
from fgcli.gradient.estimator import Batch, Coverage, Estimate, Loss, Stateless
from fgcli.gradient.look import on_few
from fgcli.gradient.loss import OutputGradient, output_gradient, sum_of
from fgcli.gradient.nested import first_tensor, leaves, rebuilt, tangent_of
from fgcli.gradient.operations import TABLES, following_backward, linear_part, padding_row
from fgcli.gradient.precision import full_precision
from fgcli.gradient.probe import naming, without_formula
from fgcli.gradient.processes import ALONE, Processes, TakesRows
from fgcli.gradient.randomness import StepRng, Streams
from fgcli.gradient.sites import NOWHERE, PLAIN, Layout
from fgcli.gradient.tangents import gram_of
from fgcli.gradient.uses import Outputs, Pass, Use, run
from fgcli.methods.make import tangents_of
from fgcli.methods.options import WeightPerturbationOptions
from fgcli.methods.weight_noise import WeightNoise


class WeightPerturbation(TakesRows, Stateless):
    """One direction v ~ N(0, I) per parameter for the whole batch; the estimate is (Σ_b δ_b) v. Unbiased.

    With several tangents, several such directions, made one estimate as fgcli.gradient.tangents says. No activations
    are stored in any case; with memory=replay, all the directions of a chunk of tangents only, and of a parameter.

    Parameters are dual numbers wherever the model uses them. Samples may meet in the model. All that is added up over
    processes are the slopes.
    """

    def __init__(self, options: WeightPerturbationOptions) -> None:
        self.tangents, self.memory = tangents_of(options), options.memory
        self.noise = WeightNoise(options, self.tangents)
        self._one_by_one = False
        """Whether torch.func cannot follow the model, so that each tangent has a pass of its own."""

    def bind(self, model: nn.Module, example: Any) -> Coverage:
        refuse(model, FORWARD_MODE)
        if self.tangents.combine == "sitewise":
            raise OptionRefused(
                "combine sitewise is of guesses at layers' outputs; here use combine orthogonal or mean"
            )
        if not self.tangents.single:
            if self.memory != "replay":
                keep_freed_memory()
            sizes = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
            self.tangents.refuse_above(sizes)
        on_few(partial(refuse_without_formula, model), example)
        if not self.tangents.single:
            on_few(partial(self._try, model), example)
        if self._one_by_one:
            refuse_unsteady(model, example)
        self.noise.untrained = untrained_rows(model, example)
        self.processes.refuse_unsplittable(model, example)
        return Coverage(sites=())

    @torch.no_grad()
    def _try(self, model: nn.Module, example: Any) -> None:
        """See whether torch.func follows the model. Nothing of it is kept."""
        batch = Batch(example, None)
        self._one_by_one = batch.device.type == "mps"  # there, layers have no formula that torch.func knows
        with untouched(model, batch.device):
            try:
                self._estimate_several(model, sum_of, batch, Streams(0).at(0), ALONE)
            except RuntimeError:
                self._one_by_one = True

    @torch.no_grad()
    def estimate(self, model: nn.Module, loss: Loss, batch: Batch, rng: StepRng) -> Estimate:
        if not self.tangents.single:
            return self._estimate_several(model, loss, batch, rng, self.processes)
        samples, batch, loss = batch.size, self.processes.own(batch), self.processes.loss(loss)
        directions = {name: self.noise.draw(rng, name, range(1), p)[0] for name, p in _trained(model).items()}
        of_loss, tangents = derivatives_along(model, loss, batch, directions, ByHand)
        delta = of_loss.along(tangents, 1) * (batch.size / samples)
        slope = self.processes.slopes(delta.sum(0), of_loss.losses)[0]
        return Estimate(of_loss.losses, {name: v.mul_(slope) for name, v in directions.items()}, delta[:, 0])

    def _estimate_several(
        self, model: nn.Module, loss: Loss, whole: Batch, rng: StepRng, processes: Processes
    ) -> Estimate:
        batch, loss = processes.own(whole), processes.loss(loss)
        tangents, every = self.tangents, range(self.tangents.number)
        parameters = {name: p.detach() for name, p in _trained(model).items()}
        kept: dict[str, Tensor] = {}
        if self.memory != "replay":
            kept = {name: self.noise.draw(rng, name, every, p) for name, p in parameters.items()}

        def directions(name: str, part: range) -> Tensor:
            if name in kept:
                return kept[name][part.start : part.stop]
            return self.noise.draw(rng, name, part, parameters[name])

        back = state_of(model, None if self._one_by_one else (), batch.device)
        of_loss, deltas = None, []
        for part in tangents.parts if not self._one_by_one else (range(k, k + 1) for k in every):
            if deltas:  # the same random numbers, and the same state, for each
                back()
            chosen = {name: directions(name, part) for name in parameters}
            if self._one_by_one:
                of_loss, moved = derivatives_along(
                    model, loss, batch, {n: v[0] for n, v in chosen.items()}, ByHand, of_loss
                )
                deltas.append(of_loss.along(moved, 1))
            else:
                of_loss, delta = derivatives_together(model, loss, batch, parameters, chosen, of_loss)
                deltas.append(delta)
        assert of_loss is not None
        delta = torch.cat(deltas, 1) * (batch.size / whole.size)
        slopes = processes.slopes(delta.sum(0), of_loss.losses)
        gram, n = None, sum(p.numel() for p in parameters.values())
        with full_precision(delta):
            if tangents.combine != "mean":
                grams = [gram_of(directions(name, every).flatten(1).unsqueeze(1)) for name in parameters]
                gram = torch.stack(grams).sum(0)
            (c,) = tangents.coefficients(slopes.unsqueeze(0), gram, n)
            gradients = {name: _summed(c, directions(name, every)) for name in parameters}
        return Estimate(of_loss.losses, gradients, delta)


def untrained_rows(model: nn.Module, example: Any) -> dict[str, int]:
    """By the table's name, the row that no lookup trains (`padding_idx`). Buffers and generators are brought back.

    Args:
        model: any module.
        example: inputs, of which two samples are taken where the model takes so few.

    Raises:
        ModelRefused: for a parameter that is used unseen, and for a hook on a gradient.
    """
    tables = on_few(partial(_tables, model), example)
    alone = {name: rows.pop() for name, rows in tables.padding.items() if len(rows) == 1}
    return {name: row for name, row in alone.items() if row is not None}


def _tables(model: nn.Module, inputs: Any) -> "_Tables":
    tables, shapes = _Tables(), Shapes(model)
    with untouched(model, first_tensor(inputs).device) as back:
        with BufferState(model).apart():  # what a forward keeps of its graph goes with it
            run(model, inputs, tables)
        back()
        shapes.refuse_unseen(run(model, inputs, shapes))
    return tables


def _trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


class _Along(Pass):
    """A pass in which parameters are what `tensors` says, with tangents, wherever the model uses them."""

    def __init__(self, tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> None:
        self.tensors, self.dtype = tensors, dtype

    def visit(self, use: Use) -> Outputs:
        if use.func in TABLES and id(use.args[1]) in use.sources:
            rows = following_backward(use.func, use.args, use.kwargs, self.mode.substituted(use.args[1]))
            if rows is not None:
                return rows
        return use.call(self._fitting, self.mode.substituted)

    def _fitting(self, value: Any) -> Any:
        """Data in the precision of the weights that it meets."""
        low = self.dtype is not None and isinstance(value, Tensor) and value.is_floating_point()
        return value.to(self.dtype) if low else value

    def stand_in(self, name: str, parameter: Tensor) -> Tensor:
        found = self.tensors.get(name, parameter.detach())
        return found if self.dtype is None else found.to(self.dtype)


class _Tables(_Along):
    """A pass as `backward` has it, with a graph, which notes the untrained row of each weight that is used, by use."""

    def __init__(self) -> None:
        super().__init__({})
        self.padding: dict[str, set[int | None]] = {}

    def visit(self, use: Use) -> Outputs:
        for name in use.parameters:
            self.padding.setdefault(name, set()).add(padding_row(use.func, use.args, use.kwargs))
        return use.call(lambda value: value, lambda value: value)

    def stand_in(self, name: str, parameter: Tensor) -> Tensor:
        self.padding.setdefault(name, set()).add(None)
        return parameter


class ByHand(_Along):
    """The same within a dual level. Layers' tangents are formed by hand: some devices have no formula for them."""

    def visit(self, use: Use) -> Outputs:
        if not use.bilinear:
            return super().visit(use)
        x, moved = forward_ad.unpack_dual(use.x)
        weight, direction = forward_ad.unpack_dual(self.mode.substituted(use.args[1]))
        bias, shift = None, None
        if len(use.args) > 2 and use.args[2] is not None:
            bias, shift = forward_ad.unpack_dual(self.mode.substituted(use.args[2]))
        s = linear_part(use.func, use.args, x, weight, bias)
        tangent = None if moved is None else linear_part(use.func, use.args, moved, weight)
        if direction is not None or shift is not None:
            direction = torch.zeros_like(weight) if direction is None else direction
            own = linear_part(use.func, use.args, x, direction, shift)
            tangent = own if tangent is None else tangent.add_(own)
        return s if tangent is None else forward_ad.make_dual(s, tangent)


class _Trial(ByHand):
    """The same, naming the place of an operation without a forward-mode formula."""

    after = "the model's input"

    def visit(self, use: Use) -> Outputs:
        with naming(use.func, self.after):
            outputs = super().visit(use)
        self.after = f"site '{use.name}'"
        return outputs

    def operate(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Outputs:
        with naming(func, self.after):
            return func(*args, **kwargs)


@torch.no_grad()
def refuse_without_formula(model: nn.Module, example: Any) -> None:
    """ModelRefused for an operation without a forward-mode formula, by one forward, of which nothing is kept."""
    batch = Batch(example, None)
    directions = {name: torch.ones_like(p) for name, p in _trained(model).items()}
    with untouched(model, batch.device):
        try:
            derivatives_along(model, sum_of, batch, directions, _Trial)
        except NotImplementedError as cause:  # a torch.autograd.Function, which shows no operation
            raise without_formula("an operation", "one of its layers", cause) from cause


def _summed(c: Tensor, directions: Tensor) -> Tensor:
    """Σ_k c_k v_k of c [K], v [K, ...]: a model's outputs may have other bits than its weights."""
    return torch.tensordot(c.to(directions.dtype), directions, dims=1)


def _layouts(outputs: Outputs, size: int) -> tuple[list[Layout], int]:
    """A δ a sample where all outputs have an axis of them first, else one for the batch."""
    values = leaves(outputs)
    apart = all(one.dim() > 0 and len(one) == size for one in values)
    return [PLAIN if apart else NOWHERE] * len(values), size if apart else 1


def derivatives_along(
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    directions: Mapping[str, Tensor],
    kind: type[_Along],
    of_loss: OutputGradient | None = None,
) -> tuple[OutputGradient, list[Tensor | None]]:
    """e, and the outputs' tangents along one direction of each parameter."""
    with forward_ad.dual_level():
        parameters = dict(model.named_parameters())
        duals = {name: forward_ad.make_dual(parameters[name].detach(), v) for name, v in directions.items()}
        outputs = run(model, batch.inputs, kind(duals))
        if of_loss is None:
            of_loss = output_gradient(loss, outputs, batch.targets, *_layouts(outputs, batch.size))
        return of_loss, [tangent_of(one) for one in leaves(outputs)]


def derivatives_together(
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    parameters: dict[str, Tensor],
    directions: dict[str, Tensor],
    of_loss: OutputGradient | None,
) -> tuple[OutputGradient, Tensor]:
    """e, and δ [samples, directions], by torch.func.vmap over jvp: the primal is computed once."""
    outputs, tangents = tangents_together(model, batch, parameters, directions)
    if of_loss is None:
        of_loss = output_gradient(loss, outputs, batch.targets, *_layouts(outputs, batch.size))
    number = len(next(iter(directions.values())))
    # Outputs of a dual pass over repeated samples have the tangents of each direction in turn.
    by_row = [one.flatten(0, 1) if of_loss.samples > 1 else one for one in tangents]
    if of_loss.samples > 1:
        return of_loss, of_loss.along(by_row, number)
    return of_loss, torch.cat([of_loss.along([one[k] for one in tangents], 1) for k in range(number)], 1)


def tangents_together(
    model: nn.Module, batch: Batch, parameters: dict[str, Tensor], directions: dict[str, Tensor]
) -> tuple[Outputs, list[Tensor]]:
    """The model's outputs, and the tangents [directions, *shape] of each along several directions of the parameters."""
    device = batch.device.type
    # Autocast cannot do convolutions with several tangents of a weight, so that its precision is had by hand.
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    structure: list[Outputs] = []

    def outputs_of(chosen: dict[str, Tensor]) -> tuple[Tensor, ...]:
        with full_precision(batch.device):
            outputs = run(model, batch.inputs, _Along(chosen, dtype))
        structure.append(outputs)
        return tuple(leaves(outputs))

    def along(direction: dict[str, Tensor]) -> Any:
        return torch.func.jvp(outputs_of, (parameters,), (direction,))

    shared: Any = (None, 0)  # of the outputs, which all directions share, and of their tangents
    primal, tangents = torch.func.vmap(along, out_dims=shared, randomness="same")(directions)
    return rebuilt(structure[0], primal), list(tangents)
