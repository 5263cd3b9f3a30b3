"""Pull-backs of feedback through the pieces of a cut network, of all sites in one vjp.

What stands at the ends of the pieces takes as much as all that the layers are given. It is asked for when the vjp comes
there, and let go of behind it.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fgcli.gradient.loss import OutputGradient
from fgcli.gradient.nested import pulled
from fgcli.gradient.pieces import Noise, Pieces, at_output
from fgcli.gradient.sites import Network
from fgcli.gradient.upstream import End
from fgcli.gradient.uses import Outputs, Use

Asked = dict[str, Callable[[], Sequence[Tensor]] | dict[int, Tensor]]
"""By site: what makes the cotangents of the tensors in which the piece before it ends, or those that it has made."""


class _Asking(torch.autograd.Function):
    """A number whose derivative with respect to x is asked for when a vjp comes there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ask: Callable[[], Tensor]) -> Tensor:
        ctx.ask = ask
        return x.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *of_output: Tensor) -> tuple[Tensor, None]:
        return ctx.ask(), None


class AskingPieces(Pieces):
    """Pieces with a root at each of their ends, made as the forward comes by: a vjp comes to the last one first."""

    def __init__(self, model: nn.Module, inputs: Any, network: Network, noise: Noise | None = None) -> None:
        self.asked: Asked = {}
        """Within a vjp."""
        self.roots: dict[str, list[Tensor]] = {}
        super().__init__(model, inputs, network, noise)

    def visit(self, use: Use) -> Outputs:
        outputs = super().visit(use)
        # Of the dict alone: a node of the graph that had these pieces would be had by them.
        asked, tensors = self.asked, self.ends[use.name].tensors
        self.roots[use.name] = [
            _Asking.apply(one, partial(_cotangent, asked, use.name, index, one.dtype))  # pyright: ignore[reportArgumentType]
            for index, one in enumerate(tensors)
            if one.requires_grad
        ]
        return outputs


def _cotangent(asked: Asked, name: str, index: int, dtype: torch.dtype) -> Tensor:
    """Of one of the tensors; those of all are made together."""
    made = asked[name]
    if not isinstance(made, dict):
        made = asked[name] = dict(enumerate(made()))
    return made.pop(index).to(dtype)


class Sweeps:
    """Pull-backs through the pieces of a cut network, of all sites at once."""

    def __init__(self, cut: AskingPieces, outputs: Sequence[Tensor], of_loss: OutputGradient) -> None:
        self.cut = cut
        self._sites = [site for site in cut.network.guessed if site.name in cut.going]
        frozen = [site for name, site in cut.network.sites.items() if name in cut.going and not site.is_guessed]
        self._sites += frozen
        self._outputs = at_output(outputs, of_loss)
        self.of_parameters: dict[str, Tensor] = {}
        """Gradients of the pieces' parameters, known from the last sweep."""

    def is_attached(self, name: str) -> bool:
        """Whether the pieces that end there start at a site."""
        return any(one.requires_grad for one in self.cut.ends[name].tensors)

    def from_output(self) -> dict[str, list[Tensor]]:
        """∂L/∂s of the sites that only the output is reached from, exact."""
        sites = [site for site in self._sites if site.is_output]
        flat = [one for site in sites for one in self.cut.going[site.name]]
        if not flat or not self._outputs:
            return {}
        found = iter(pulled(self._outputs, flat))
        return {site.name: [next(found) for _ in self.cut.going[site.name]] for site in sites}

    def pulled(
        self, asked: Mapping[str, Callable[[], Sequence[Tensor]]], to: Collection[str] | None = None, *, last: bool
    ) -> dict[str, list[Tensor]]:
        """To all sites, or some, of what is asked for at the ends of the pieces, and e at the output."""
        names = [site.name for site in self._sites if to is None or site.name in to]
        flat = [one for name in names for one in self.cut.going[name]]
        parameters = self.cut.parameters if last else {}
        wanted = [*flat, *parameters.values()]
        roots = [(root, torch.ones_like(root)) for name in asked for root in self.cut.roots[name]]
        self.cut.asked.update(asked)
        try:
            found = iter(pulled([*roots, *self._outputs], wanted, keep=not last) if wanted else ())
        finally:
            self.cut.asked.clear()
        b = {name: [next(found) for _ in self.cut.going[name]] for name in names}
        if last:
            self.of_parameters = dict(zip(parameters, found, strict=True))
        return b

    def back(self, through: Callable[[End, list[Tensor]], list[Tensor]]) -> dict[str, list[Tensor]]:
        """To all sites, one after another from the output back: what `through` makes of a site's b goes on from there.

        Each piece is passed once.
        """
        order = [site for name in reversed(self.cut.going) for site in self._sites if site.name == name]
        b = {site.name: [torch.zeros_like(one) for one in self.cut.going[site.name]] for site in order}
        parameters = self.cut.parameters
        self.of_parameters = {name: torch.zeros_like(one) for name, one in parameters.items()}

        def add(pairs: Sequence[tuple[Tensor, Tensor]], to: Sequence[str]) -> None:
            flat = [one for name in to for one in self.cut.going[name]]
            if not any(one.requires_grad for one, _ in pairs) or not (flat or parameters):
                return
            found = iter(pulled(pairs, [*flat, *parameters.values()]))
            for name in to:
                b[name] = [have + next(found) for have in b[name]]
            for name in parameters:
                self.of_parameters[name] = self.of_parameters[name] + next(found)

        add(self._outputs, [site.name for site in order if site.reaches_output])
        for site in order:
            if self.is_attached(site.name):
                end = self.cut.ends[site.name]
                u = through(end, b[site.name])
                before = [one.name for one in order if site.name in one.reaches]
                add(list(zip(end.tensors, u, strict=True)), before)
        return b
