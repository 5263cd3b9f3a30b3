"""Weight perturbation: the vanilla forward gradient (Baydin et al. 2022, arXiv:2202.08587)."""

from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn

from fgcli.extend.options import Options
from fgcli.gradient.allocator import keep_freed_memory
from fgcli.gradient.dual import directional_derivative, dual_forward, hooks, lacks_layer_formulas
from fgcli.gradient.errors import ModelRefused, OptionRefused
from fgcli.gradient.estimator import Batch, Coverage, Estimate, Loss
from fgcli.gradient.grad_mode import refuse_no_grad
from fgcli.gradient.precision import full_precision, lowered
from fgcli.gradient.probe import called_norms, naming_missing_formulas, refuse_no_tensor, refuse_random_layers
from fgcli.gradient.randomness import StepRng, Streams
from fgcli.gradient.sites import (
    SiteModule,
    linear_part,
    named_site_modules,
    padding_rows,
    refuse_mixing,
    refuse_wrapped,
)
from fgcli.gradient.tangents import gram_of
from fgcli.gradient.upstream import math_attention
from fgcli.guesses.driven import memory_of, tangents_of


class WeightPerturbation:
    """One direction v ~ N(0, I) per parameter for the whole batch; the estimate is (Σ_b δ_b) v. Unbiased.

    With several tangents, several such directions, made one estimate as fgcli.gradient.tangents says. No activations
    are stored in any case; with memory=replay, all the directions of a chunk of tangents only, and of a parameter.

    Parameters are dual numbers wherever the model uses them: tied, or outside their own layer, too. Only where the
    device has no forward-mode formula for layers are the tangents of Linear and Conv2d formed by hand, each in its
    layer alone.
    """

    def __init__(self, options: Options) -> None:
        self.tangents, self.memory = tangents_of(options), memory_of(options)
        self._sites: dict[str, SiteModule] = {}
        self._padding_rows: dict[str, int] = {}
        self._norms: dict[str, nn.Module] = {}

    def bind(self, model: nn.Module, example: Tensor) -> Coverage:
        refuse_wrapped(model)
        self._norms = called_norms(model, example)
        self._sites, self._padding_rows = named_site_modules(model), padding_rows(model)
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not self.tangents.single:
            if self.memory == "store":
                keep_freed_memory()
            refuse_random_layers(model, example)
            if lacks_layer_formulas(example.device):
                raise OptionRefused(f"on {example.device} it takes one tangent; use tangents=1, or another device")
            self.tangents.refuse_above({name: p.numel() for name, p in parameters.items()})
        self._try(model, example[:2])
        return Coverage(sites=())

    @torch.no_grad()
    def _try(self, model: nn.Module, example: Tensor) -> None:
        """ModelRefused, naming the site before it, for an operation that no tangent, or no several, can go through."""
        passed = ["the model's input"]
        buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        batch, rng = Batch(example, example), Streams(0).at(0)

        def note(name: str, *_: object) -> None:
            passed.append(f"site '{name}'")

        def loss(outputs: Tensor, _: Tensor) -> Tensor:
            refuse_no_tensor(outputs)
            return outputs.flatten(1).sum(1)

        try:
            with hooks(self._sites, note), naming_missing_formulas(model, passed):
                self._single(model, loss, batch, rng)
                if not self.tangents.single:
                    self._batched(model, loss, batch, rng)
                refuse_no_grad(model, example)
        except RuntimeError as cause:
            if self.tangents.single:
                raise
            reason = str(cause).splitlines()[0]
            raise ModelRefused(
                f"{passed[-1]} is followed by what torch.func cannot follow ({reason}); use another operation, or "
                "tangents=1"
            ) from cause
        finally:
            for buffer, before in buffers:
                buffer.copy_(before)

    def estimate(self, model: nn.Module, loss: Loss, batch: Batch, rng: StepRng) -> Estimate:
        for name, norm in self._norms.items():
            refuse_mixing(name, norm)
        return (self._single if self.tangents.single else self._batched)(model, loss, batch, rng)

    def _single(self, model: nn.Module, loss: Loss, batch: Batch, rng: StepRng) -> Estimate:
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        with torch.no_grad(), forward_ad.dual_level():
            directions = {name: self._directions(rng, name, p, range(1))[0] for name, p in parameters.items()}
            along = {id(parameters[name]): v for name, v in directions.items()}
            sites = self._sites if lacks_layer_formulas(batch.inputs.device) else {}
            of_sites = {id(p) for module in sites.values() for p in module.parameters(recurse=False)}
            rest = {name: v for name, v in directions.items() if id(parameters[name]) not in of_sites}

            def perturb(name: str, x: Tensor, _: Tensor) -> Tensor:
                module = self._sites[name]
                weight = along.get(id(module.weight))
                weight = torch.zeros_like(module.weight) if weight is None else weight
                return linear_part(module, x, weight, along.get(id(module.bias)))

            outputs = dual_forward(model, batch.inputs, sites, perturb, rest)
            losses, delta = directional_derivative(loss(outputs, batch.targets))
            total = delta.sum()
            gradients = {name: total * v for name, v in directions.items()}
        return Estimate(losses, gradients, delta)

    def _directions(self, rng: StepRng, name: str, parameter: Tensor, part: range) -> Tensor:
        """Of one parameter, [len(part), *its shape]."""
        directions = self.tangents.noise(rng, "weight", name, part, tuple(parameter.shape), parameter)
        if name in self._padding_rows:
            directions[:, self._padding_rows[name]] = 0
        return directions

    @torch.no_grad()
    def _batched(self, model: nn.Module, loss: Loss, batch: Batch, rng: StepRng) -> Estimate:
        """K directions by torch.func.vmap over jvp: the primal is computed once for each chunk."""
        tangents, every = self.tangents, range(self.tangents.number)
        parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

        def drawn(name: str, part: range) -> Tensor:
            return self._directions(rng, name, parameters[name], part)

        kept = {} if self.memory == "replay" else {name: drawn(name, every) for name in parameters}

        def directions(name: str, part: range) -> Tensor:
            return kept[name][part.start : part.stop] if name in kept else drawn(name, part)

        rest, inputs = lowered(model, batch.inputs)

        def losses_of(chosen: dict[str, Tensor]) -> Tensor:
            tensors = rest | {name: one.to(rest[name].dtype) for name, one in chosen.items()}
            with full_precision(inputs):
                outputs = torch.func.functional_call(model, tensors, (inputs,))
            return loss(outputs, batch.targets)

        def along(direction: dict[str, Tensor]) -> Any:
            return torch.func.jvp(losses_of, (parameters,), (direction,))

        shared: Any = (None, 0)  # of losses, which all tangents share, and of δ
        with math_attention():
            parts = [
                torch.func.vmap(along, out_dims=shared)({name: directions(name, part) for name in parameters})
                for part in tangents.parts
            ]
        losses, delta = parts[0][0], torch.cat([part[1] for part in parts]).T / len(batch.inputs)
        gram, n = None, sum(p.numel() for p in parameters.values())
        with full_precision(delta):
            if tangents.combine != "mean":
                grams = [gram_of(directions(name, every).flatten(1).unsqueeze(1)) for name in parameters]
                gram = torch.stack(grams).sum(0)
            (c,) = tangents.coefficients(delta.sum(0, keepdim=True), gram, n)
            gradients = {name: torch.tensordot(c, directions(name, every), dims=1) for name in parameters}
        return Estimate(losses, gradients, delta)

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        pass
