"""Feedback in a chain by a forward that holds no more of it than a prediction takes."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fgcli.gradient.loss import OutputGradient
from fgcli.gradient.nested import leaves
from fgcli.gradient.passes import Seen
from fgcli.gradient.pieces import Pieces, at_output, through
from fgcli.gradient.sites import Network, Site
from fgcli.gradient.upstream import End
from fgcli.gradient.uses import Outputs, Use

Done = Callable[[Site, Seen, list[Tensor], dict[str, Tensor]], None]


class Streamed(Pieces):
    """A forward that makes b at each site as soon as it has come `layers` + 1 uses further, and lets the site go.

    Args:
        model: the model.
        inputs: what it is called with.
        network: what the look at it found: a chain.
        of_loss: e of these inputs.
        layers: uses that a prediction passes through.
        predict: what stands at the end of a piece, in the shapes of what ends there.
        done: is given each site, its use, b there, and the gradients of the parameters in the piece behind it.
        passed: is given the end before each use and the pull-back of the use's own b through it; None: not asked for.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Any,
        network: Network,
        of_loss: OutputGradient,
        layers: int,
        predict: Callable[[End], list[Tensor]],
        done: Done,
        passed: Callable[[End, list[Tensor]], None] | None = None,
    ) -> None:
        self.layers, self.predict, self.done, self.passed = layers, predict, done, passed
        self._order: list[str] = []
        super().__init__(model, inputs, network)
        pairs, last = at_output(leaves(self.outputs), of_loss), len(self._order) - 1
        for number in range(last, max(-1, last - 2 - layers), -1):  # the sites that are left: all exact
            more = number > max(0, last - 1 - layers)
            u = self._finish(number, pairs, passes=more or self._teaches, taught=number >= last - 1)
            pairs = self._at_end(number, u)

    def visit(self, use: Use) -> Outputs:
        outputs = super().visit(use)
        self._order.append(use.name)
        end, first = self.ends[use.name], len(self._order) - 2 - self.layers
        if first >= 0 and not end.site.is_output:
            u = self.predict(end)
            for number in range(first + self.layers, first, -1):
                b, _ = self._behind(number, self._at_end(number + 1, u))
                u = self._through(number, b, taught=number == first + self.layers)  # of what was predicted itself
            self._finish(first, self._at_end(first + 1, u), passes=self._teaches, taught=self._teaches)
            name, later = self._order[first], self._order[first + 1]  # let go of the site and of the graph behind it
            del self.going[name], self.uses[name], self.ends[name]
            self.ends[later] = replace(self.ends[later], tensors=[one.detach() for one in self.ends[later].tensors])
        return outputs

    @property
    def _teaches(self) -> bool:
        """Whether a pull-back through a use is asked for that no prediction takes."""
        return self.passed is not None and not self.layers

    def _at_end(self, number: int, u: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        return list(zip(self.ends[self._order[number]].tensors, u, strict=True)) if u else []

    def _behind(
        self, number: int, pairs: Sequence[tuple[Tensor, Tensor]], *, parameters: bool = False
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """The pull-back to a site, and to the parameters in the piece behind it."""
        own = self.parameters if parameters else {}
        going = self.going[self._order[number]]
        attached = [(one, u.to(one.dtype)) for one, u in pairs if one.requires_grad]
        found = torch.autograd.grad(
            [one for one, _ in attached],
            [*going, *own.values()],
            [u for _, u in attached],
            retain_graph=True,
            allow_unused=True,
        )
        b = [torch.zeros_like(one) if g is None else g for one, g in zip(going, found, strict=False)]
        of_parameters = zip(own, found[len(going) :], strict=True)
        return b, {name: one for name, one in of_parameters if one is not None}

    def _through(self, number: int, b: list[Tensor], *, taught: bool) -> list[Tensor]:
        end = self.ends[self._order[number]]
        u = through(end, b)
        if taught and self.passed is not None:
            self.passed(end, u)
        return u

    def _finish(
        self, number: int, pairs: Sequence[tuple[Tensor, Tensor]], *, passes: bool, taught: bool
    ) -> list[Tensor]:
        """Hand over b of a site; u before the site, where it `passes`."""
        name = self._order[number]
        b, of_parameters = self._behind(number, pairs, parameters=True)
        self.done(self.ends[name].site, self.seen(name), b, of_parameters)
        return self._through(number, b, taught=taught) if passes and number else []
