"""The forward gradient in memory that does not grow with depth: two passes, each of which keeps nothing of a layer.

The first, with dual numbers, gives δ alone. The second is a plain forward pass: at every site the guess is drawn again
from its key, times δ (of several tangents, times the coefficients c that δ makes), and the gradient of the layer's own
parameters made at once, while its input is there.

A dual number takes twice the memory of a number, and its sum with a guess some more. So a large batch is taken in parts
of about ROWS samples (fgcli.gradient.parts). The numbers are those of the pass that stores. (With several tangents the
last bits may differ, where they are chunked: their guesses are mapped together here.)

Where W̃ has no matrix (fgcli.gradient.segment), two passes would save little: W̃ has rows for all later blocks of a
residual stream and uses what other layers give, so that a single guess for one sample, with its noise, takes memory
that grows with depth. There the pass that stores is made, of parts whose layers give STORED numbers together: the
deeper the network, the fewer samples a part has.
"""

from collections.abc import Mapping
from functools import partial

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn

from fgcli.gradient.batched import Link, batched_derivatives
from fgcli.gradient.draws import Drawn, Kept
from fgcli.gradient.driven_site import DrivenSite
from fgcli.gradient.dual import directional_derivative, dual_forward, hooks
from fgcli.gradient.estimator import Batch, Loss
from fgcli.gradient.parts import Add
from fgcli.gradient.precision import full_precision, wide
from fgcli.gradient.randomness import StepRng, layers_again
from fgcli.gradient.sites import weight_gradients
from fgcli.gradient.tangents import Tangents
from fgcli.gradient.upstream import math_attention

ROWS = 512
STORED = 2**21
Derivatives = tuple[Tensor, Tensor, Tensor, Tensor]
"""Losses [batch], δ [batch, K], coefficients of the guesses [batch, K], and δ [batch] along the directions."""


class Replay:
    """The passes of a model over sites that were prepared for this step, none with a GraphSegment.

    `directions` are those of the parameters that no site covers.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        sites: Mapping[str, DrivenSite],
        tangents: Tangents,
        links: Mapping[str, Link],
        directions: Mapping[str, Tensor],
    ) -> None:
        self.model, self.loss = model, loss
        self.sites, self.tangents, self.links, self.directions = sites, tangents, links, directions
        self._modules = {name: one.site.module for name, one in sites.items()}

    def __call__(self, part: Batch, rng: StepRng, add: Add) -> tuple[Tensor, Tensor]:
        """As EstimatePart has it."""
        again = layers_again(part.inputs.device)  # a Dropout must drop the same units in both passes
        losses, delta, coefficients, along_directions = self._first_pass(part, rng)
        again()
        total = along_directions.sum()
        add({name: total * direction for name, direction in self.directions.items()})
        self._second_pass(part.inputs, rng, coefficients, add)
        return losses, delta

    def _first_pass(self, batch: Batch, rng: StepRng) -> Derivatives:
        return (self._single_pass if self.tangents.single else self._batched_pass)(batch, rng)

    def _single_pass(self, batch: Batch, rng: StepRng) -> Derivatives:
        def perturb(name: str, _: Tensor, s: Tensor) -> Tensor:
            with self.sites[name].observing(s) as site:
                return site.draw(s, rng, self.tangents)

        with forward_ad.dual_level():
            outputs = dual_forward(self.model, batch.inputs, self._modules, perturb, self.directions)
            losses, delta = directional_derivative(self.loss(outputs, batch.targets))
        return losses, delta.unsqueeze(1), delta.unsqueeze(1), delta

    def _batched_pass(self, batch: Batch, rng: StepRng) -> Derivatives:
        """One pass for each chunk of the tangents."""
        grams = _Grams(self.tangents)

        def perturb(part: range, name: str, _: Tensor, s: Tensor) -> Tensor:
            with self.sites[name].observing(s) as site:
                if part.start == 0 and grams.wanted:
                    grams.add(self._draw(site, s, rng))
                return site.draw_several(s, rng, self.tangents, part).all()

        found: list[tuple[Tensor, Tensor, Tensor | None]] = []
        for part in self.tangents.parts:
            # What has a tangent of its own has it in the first part.
            directions = {} if part.start else self.directions
            at_site, number = partial(perturb, part), len(part)
            with forward_ad.dual_level():
                found.append(
                    batched_derivatives(
                        self.model, self.loss, batch, self._modules, at_site, number, self.links, directions
                    )
                )
        losses, _, along = found[0]
        delta = torch.cat([one[1] for one in found], dim=1)
        rest = losses.new_zeros(len(losses)) if along is None else along
        with full_precision(delta):
            return losses, delta, grams.coefficients(delta), rest

    def _second_pass(self, inputs: Tensor, rng: StepRng, coefficients: Tensor, add: Add) -> None:
        def visit(name: str, _: nn.Module, arguments: tuple[Tensor, ...], s: Tensor) -> None:
            with full_precision(s):
                s = wide(s)
                with self.sites[name].observing(s) as site:
                    guess = self._draw(site, s, rng).combined(coefficients)
                add(weight_gradients(site.site, wide(arguments[0]), guess))

        # Slopes are derivatives, which only a dual level has.
        with forward_ad.dual_level(), math_attention(), hooks(self._modules, visit):
            self.model(inputs)

    def _draw(self, site: DrivenSite, s: Tensor, rng: StepRng) -> Drawn:
        """All tangents' guesses at a site, the same each time."""
        if self.tangents.single:
            return Kept(site.draw(s, rng, self.tangents).unsqueeze(0))
        return site.draw_several(s, rng, self.tangents, range(self.tangents.number))


class _Grams:
    """The Gram matrices that the combination of several tangents asks for, added up over the sites."""

    def __init__(self, tangents: Tangents) -> None:
        self.tangents, self._sum, self._n = tangents, None, 0
        self.wanted = tangents.combine != "mean"

    def add(self, drawn: Drawn) -> None:
        gram = drawn.gram(self.tangents)
        self._sum = gram.matrix if self._sum is None else self._sum + gram.matrix
        self._n += gram.n

    def coefficients(self, delta: Tensor) -> Tensor:
        return self.tangents.coefficients(delta, self._sum, self._n)
