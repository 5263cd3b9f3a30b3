"""PEPITA: a second forward on inputs that the error has changed, in place of the backward pass.

Dellaferrera and Kreiman 2022, arXiv:2201.11665. With h_l the activations of layer l on the inputs x, e = ∂L/∂(output)
of a sample, F a fixed random matrix, and h'_l those on x + F e,

    ∂/∂W_l := (h_l - h'_l) h'_{l-1}ᵀ    (h'_0 = x + F e)    ∂/∂W_last := e h'_{last-1}ᵀ

Cost: two forward passes and the products of the weights' gradients; the activations of both are kept.

What is not true of it: that it follows the gradient. To first order h_l - h'_l = -J_l F e, J_l the Jacobian of layer l
by the inputs: the error goes through the layers before l forwards, where backpropagation brings it through those behind
l. It aligns in training, as feedback alignment does, and worse the deeper the network is. Its hidden layers' lengths
scale with F, so that a learning rate suits one `scale`, or an optimiser that scales each weight (Adam).

The authors' code takes the second forward's error for the last layer; their paper, and this, the first one's.
"""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from fgcli.gradient.checks import GUESSES, refuse
from fgcli.gradient.errors import ModelRefused, OptionRefused
from fgcli.gradient.estimator import Batch, Coverage, Estimate, Loss, Stateless
from fgcli.gradient.local_losses import LocalLosses
from fgcli.gradient.look import few, look
from fgcli.gradient.loss import output_gradient
from fgcli.gradient.nested import leaves, rebuilt
from fgcli.gradient.passes import PlainPass, Seen
from fgcli.gradient.precision import wide
from fgcli.gradient.randomness import StepRng, layers_again
from fgcli.gradient.sites import PLAIN, Network, Site
from fgcli.gradient.uses import run
from fgcli.methods.options import PepitaOptions


class Pepita(Stateless):
    """PEPITA on a chain of linear layers and convolutions; what lies before the next one is a layer's activation."""

    def __init__(self, options: PepitaOptions) -> None:
        self.scale = options.scale
        self.network: Network | None = None

    def bind(self, model: nn.Module, example: Any) -> Coverage:
        """As Estimator has it. ModelRefused where a layer's activations are not the next one's input."""
        refuse(model, GUESSES)
        if isinstance(model, LocalLosses):
            raise ModelRefused("it has local losses, and pepita adds one error to the inputs: leave --local-losses out")
        network = self.network = look(model, example)
        if len(leaves(example)) != 1:
            raise ModelRefused(
                "its inputs are no one tensor of numbers, to which the error is added: use --feedback direct"
            )
        if network.mixes or not network.is_chain:
            why = f"samples are not told apart ({network.mixes})" if network.mixes else "its layers are no chain"
            raise ModelRefused(f"{why}; pepita compares each layer's activations in two passes: use --feedback direct")
        with torch.no_grad():
            inputs = few(example, 2)
            outputs, seen = self._forward(model, inputs, 2)
        sites = list(network.sites.values())
        for site, following in pairwise(sites):
            s, x = seen[site.name].shapes[0], seen[following.name].use.x if seen[following.name].use.bilinear else None
            if x is None or site.layouts != (PLAIN,) or x.numel() != math.prod(s) or len(x) != s[0]:
                raise ModelRefused(
                    f"between site '{site.name}' and '{following.name}' lies more than an activation (a pooling, say); "
                    "pepita needs as many activations as a layer has outputs: use --feedback direct"
                )
        last = seen[sites[-1].name]
        if not isinstance(outputs, Tensor) or outputs.shape != last.shapes[0] or not last.use.bilinear:
            raise ModelRefused(f"its output is not that of its last layer, '{sites[-1].name}': use --feedback direct")
        guessed = tuple(site.name for site in network.guessed)
        return Coverage(guessed, frozen=(*network.pieces, *network.beside), unused=network.unused)

    def refuse_precision(self, dtype: torch.dtype) -> None:
        """OptionRefused where rounding to `dtype` would be as large as what the error changes."""
        least = torch.finfo(dtype).eps ** 0.5
        if self.scale < least:
            raise OptionRefused(
                f"scale is {self.scale:g}; in {str(dtype).removeprefix('torch.')} rounding is as large as such a "
                f"change of the activations: set scale to at least {least:.2g}, or use precision float32"
            )

    def _forward(self, model: nn.Module, inputs: Any, samples: int) -> tuple[Any, dict[str, Seen]]:
        assert self.network is not None
        seen: dict[str, Seen] = {}

        def show(site: Site, at: Seen, s: Tensor) -> None:
            seen[site.name] = at.kept(site)

        return run(model, inputs, PlainPass(self.network, show, samples)), seen

    @torch.no_grad()
    def estimate(self, model: nn.Module, loss: Loss, batch: Batch, rng: StepRng) -> Estimate:
        """As Estimator has it; no gradient's estimate, but what takes its place."""
        assert self.network is not None
        again = layers_again(batch.device)
        outputs, clean = self._forward(model, batch.inputs, batch.size)
        of_loss = output_gradient(loss, outputs, batch.targets, self.network.output_layouts, batch.size)
        e = of_loss.parts[0]  # of the mean loss: a sample's own is as often larger as there are samples
        (x,) = leaves(batch.inputs)
        added = batch.size * e.flatten(1) @ self.matrix(rng, x[0], e).T
        again()
        _, changed = self._forward(model, rebuilt(batch.inputs, [x + added.view_as(x)]), batch.size)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        sites, gradients = list(self.network.sites.values()), dict[str, Tensor]()
        last = sites[-1]
        self._add(gradients, changed[last.name].gradients(last, e, trained))
        for site, following in pairwise(sites):
            moved = (clean[following.name].use.x - changed[following.name].use.x) / batch.size
            moved = wide(moved.view(changed[site.name].shapes[0]))
            self._add(gradients, changed[site.name].gradients(site, moved, trained))
        return Estimate(of_loss.losses, gradients)

    def matrix(self, rng: StepRng, inputs: Tensor, e: Tensor) -> Tensor:
        """F [inputs of a sample, outputs], the same at every step. Its key draws it: it is not kept with a run."""
        shape = (inputs.numel(), e[0].numel())
        drawn = rng.streams.at(0).normal("pepita", "inputs", shape, inputs)
        return drawn * (self.scale * math.sqrt(2 / inputs.numel()))

    def _add(self, gradients: dict[str, Tensor], more: Mapping[str, Tensor]) -> None:
        for name, one in more.items():
            gradients[name] = gradients[name] + one if name in gradients else one
