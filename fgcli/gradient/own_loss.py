"""Models that give their own loss, as transformers do when they are called with labels.

Such a network ends at its last sites, those from whose outputs the loss is reached without another: e is the loss's
derivative there, and δ_b = ⟨e_b, the tangent there⟩ tells samples apart, whatever form the loss has. What lies between
these sites and the loss is a piece, through which e is one local vjp.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn

from fgcli.gradient.errors import LossRefused, UnknownSite
from fgcli.gradient.nested import leaves, primal_of, rebuilt

if TYPE_CHECKING:
    from fgcli.gradient.sites import Layout


class OwnLoss(nn.Module):
    """A model of whose outputs the loss alone counts.

    Args:
        model: gives a loss: a tensor without axes, an output called `loss`, or the first of a tuple. Its parameters,
            buffers and modules are those of this one, under the same names.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.__dict__["model"] = model  # not as a module, which would change the names
        self._parameters, self._buffers, self._modules = model._parameters, model._buffers, model._modules
        self.training = model.training

    def forward(self, *inputs: Any, **keywords: Any) -> Tensor:
        return _loss_of(self.__dict__["model"](*inputs, **keywords))


def _loss_of(outputs: Any) -> Tensor:
    found = outputs
    if isinstance(outputs, Mapping):
        found = outputs.get("loss")
    elif isinstance(outputs, Sequence) and outputs:
        found = outputs[0]
    elif not isinstance(outputs, Tensor):
        found = getattr(outputs, "loss", None)
    if not isinstance(found, Tensor) or not found.is_floating_point() or found.dim():
        raise LossRefused(
            f"no loss_fn is given, and the model gives {_described(outputs)}; it must give a loss without axes (alone, "
            "called `loss`, or first in a tuple: transformers do where inputs hold `labels`), or give a loss_fn"
        )
    return found


def _described(outputs: Any) -> str:
    if isinstance(outputs, Tensor):
        return f"a tensor {list(outputs.shape)}"
    return f"{type(outputs).__name__}({', '.join(outputs)})" if isinstance(outputs, Mapping) else type(outputs).__name__


class Ends:
    """The loss, and e at the last sites, in their order and in the natural shapes of what they give for the batch."""

    def __init__(self, loss: Tensor, e: Sequence[Tensor]) -> None:
        self.loss, self.e = loss, e


def own_loss(outputs: Any, _: Any = None) -> Tensor:
    """The loss of a model in `OwnLoss`: of its value and its derivative, as a function of what the last sites give."""
    if isinstance(outputs, Tensor):
        return outputs
    ends: Ends = outputs["ends"]
    pairs = zip([*ends.e, *(torch.ones_like(one) for one in outputs["rest"])], leaves(outputs), strict=True)
    return ends.loss + torch.stack([(e * (s - s.detach())).sum() for e, s in pairs]).sum()


class Tail:
    """What a forward notes of the last sites.

    Args:
        layouts: of what each of them gives, by the site's name: methods `by_sample` and `natural`.
        samples: the number of samples that the batch is taken as.
        rows: how often the samples are repeated.
        pieces: whether trained parameters lie between the last sites and the loss.
        cut: whether the pass cuts the network itself and records what lies between; else no use is given a graph.
    """

    def __init__(
        self,
        layouts: Mapping[str, Sequence["Layout"]],
        samples: int,
        rows: int = 1,
        *,
        pieces: bool = False,
        cut: bool = False,
    ) -> None:
        self.layouts, self.samples, self.rows, self.pieces, self.cut = layouts, samples, rows, pieces, cut
        self._given: dict[str, list[tuple[Tensor, Tensor | None]]] = {}
        """By site: values that the loss is attached to, and their tangents."""

    def before(self, value: Any) -> Any:
        """Data of a use, without the graph that starts at a last site before it: none may cross a site."""
        if self.cut or not isinstance(value, Tensor):
            return value
        primal, tangent = forward_ad.unpack_dual(value)
        if not primal.requires_grad:
            return value
        return primal.detach() if tangent is None else forward_ad.make_dual(primal.detach(), tangent)

    def after(self, name: str, outputs: Any) -> Any:
        """What goes on in place of what a site gives: attached to what e is taken with respect to."""
        if name not in self.layouts:
            return outputs
        going = []
        self._given[name] = []
        for one in leaves(outputs):
            value, tangent = forward_ad.unpack_dual(one)
            if not value.requires_grad:
                value = value.detach().requires_grad_()
            self._given[name].append((value, tangent))
            # A clone: the next operation may be in place.
            going.append(value.clone() if tangent is None else forward_ad.make_dual(value.clone(), tangent.clone()))
        return rebuilt(outputs, going)

    def ended(self, loss: Tensor) -> dict[str, Any]:
        """The outputs of the network that ends at the last sites; `rest`: 0, with the tangent that is not from them."""
        missing = [name for name in self.layouts if name not in self._given]
        if missing:
            raise UnknownSite(missing[0])
        pairs = [pair for name in self.layouts for pair in self._given[name]]
        value, moved = forward_ad.unpack_dual(loss)
        values = [one for one, _ in pairs]
        found = torch.autograd.grad(value, values, retain_graph=True, allow_unused=True, materialize_grads=True)
        found = [primal_of(one).detach() for one in found]  # within a dual level they have tangents, too
        rest = [torch.zeros_like(value)] if self.pieces else []
        if self.pieces and moved is not None:
            of_sites = [(e * t).sum() for e, (_, t) in zip(found, pairs, strict=True) if t is not None]
            rest = [forward_ad.make_dual(rest[0], moved.detach() - sum(of_sites, torch.zeros_like(value)))]
        layouts = [layout for some in self.layouts.values() for layout in some]
        ends = Ends(value.detach(), [self._once(layout, e) for layout, e in zip(layouts, found, strict=True)])
        duals = [one if t is None else forward_ad.make_dual(one, t) for one, t in pairs]
        return {"last": duals, "rest": rest, "ends": ends}

    def _once(self, layout: "Layout", e: Tensor) -> Tensor:
        """The sum over the rows in which the batch is repeated."""
        if self.rows == 1 or layout.axis is None:
            return e
        by_sample = layout.by_sample(e, self.rows * self.samples)
        return layout.natural(by_sample.unflatten(0, (self.rows, self.samples)).sum(0))
