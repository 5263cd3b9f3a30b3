"""Trial passes of a model: which layers it calls as sites, and what it does that would make a guess wrong unnoticed."""

import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, fx, nn

from fgcli.gradient.dual import dual_forward, hooks, lacks_layer_formulas
from fgcli.gradient.errors import ModelRefused
from fgcli.gradient.randomness import layers_again, layers_draw
from fgcli.gradient.sites import LAYERS, SiteModule, refuse_mixing
from fgcli.gradient.trace import Traced
from fgcli.gradient.upstream import math_attention

WITHIN_INFERENCE = "is computed within torch.inference_mode(), which has no tangents; use .detach() on what stays fixed"


def output_shapes(model: nn.Module, modules: Mapping[str, SiteModule], example: Tensor) -> dict[str, tuple[int, ...]]:
    """Shape of each called site's output without the batch axis, in the order of the forward pass.

    Raises ModelRefused for a site that is called twice, by keyword or in inference mode, whose output's first axis is
    not the batch, or whose input is changed in place afterwards, and where the model changes its buffers or gives no
    tensor.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    inputs: dict[str, tuple[Tensor, int]] = {}

    def record(name: str, _: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        if name in shapes:
            raise ModelRefused(f"site '{name}' is called twice in one forward pass; give each call a layer of its own")
        if not arguments:
            raise ModelRefused(f"site '{name}' is called with its input by keyword; pass it by position")
        if output.is_inference():
            raise ModelRefused(f"the output of site '{name}' {WITHIN_INFERENCE}")
        if output.shape[0] != len(example):
            raise ModelRefused(
                f"site '{name}' has an output of shape {list(output.shape)} for a batch of {len(example)}; "
                "the first axis must be the batch"
            )
        shapes[name] = tuple(output.shape[1:])
        inputs[name] = arguments[0], arguments[0]._version

    with torch.no_grad(), hooks(modules, record):
        _called(model, example)
    for name, (x, version) in inputs.items():
        if x._version != version:
            raise ModelRefused(
                f"site '{name}' has an input that the model changes in place afterwards; its weight gradient needs it: "
                "use the operation that returns a new tensor"
            )
    return shapes


def called_norms(model: nn.Module, example: Tensor) -> dict[str, nn.Module]:
    """The BatchNorms that the forward calls. Raises ModelRefused where one mixes samples, before it does.

    Modes may change after that: `refuse_mixing` is cheap enough for every estimate.
    """
    norms = {name: one for name, one in model.named_modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)}
    called: dict[str, nn.Module] = {}

    def call(name: str, module: nn.Module, _: object) -> None:
        refuse_mixing(name, module)
        called[name] = module

    if norms:
        with torch.no_grad(), hooks(norms, call, nn.Module.register_forward_pre_hook):
            model(example[:2])
    return called


def refuse_no_tensor(outputs: object) -> None:
    """Raises ModelRefused for the outputs of a model that are not one tensor."""
    if not isinstance(outputs, Tensor):
        raise ModelRefused(f"the model gives a {type(outputs).__name__}; it must give one tensor, [batch, ...]")


def _called(model: nn.Module, inputs: Tensor) -> Tensor:
    """The model's outputs. Raises ModelRefused where it changes its buffers, naming the layer, or gives no tensor."""
    before = {name: (buffer, buffer._version) for name, buffer in model.named_buffers()}
    outputs = model(inputs)
    refuse_no_tensor(outputs)
    for name, buffer in model.named_buffers():
        if name in before and before[name][0] is buffer and before[name][1] == buffer._version:
            continue
        layer, _, own = name.rpartition(".")
        whose = f"layer '{layer}' ({type(model.get_submodule(layer)).__name__})" if layer else "the model"
        raise ModelRefused(
            f"{whose} changes its buffer '{own}' in the forward pass, which a guess may compute more than once; "
            "put it into eval mode where that stops it, or change the buffer elsewhere, or use backprop"
        )
    return outputs


def refuse_operations(model: nn.Module, sites: Mapping[str, SiteModule], example: Tensor) -> None:
    """Raises ModelRefused, naming the site before it, for an operation that has no forward-mode formula, or that mixes
    the samples of a batch: the first sample and its tangent must be the same in any batch."""
    together = example if len(example) > 2 else torch.cat([example] * 4)
    # Layers that draw give a sample the same again only in a batch of the same shape.
    copies = example[:1].repeat_interleave(len(together) if layers_draw(model, example) else 2, 0)
    again = layers_again(example.device)

    def first_of(rows: Tensor) -> dict[str, _Arrival]:
        again()
        return _first_sample(model, sites, rows)

    among_others, alone = first_of(together), first_of(copies)
    for name, arrival in among_others.items():
        if name in alone and arrival.differs(alone[name]):
            if alone[name].differs(first_of(copies)[name]):  # it keeps state, or draws from a generator of its own
                return
            _refuse_mixed(arrival.after)


@dataclass(frozen=True)
class _Arrival:
    """The first sample where it arrives at a site or at the output."""

    after: str
    value: Tensor
    tangent: Tensor

    def differs(self, other: "_Arrival") -> bool:
        """By more than rounding, which depends on the batch's size. At a kink it decides on a derivative."""
        rounding = max(1e-2, torch.finfo(self.value.dtype).eps ** 0.5)
        return _far(self.value, other.value, rounding) or _far(self.tangent, other.tangent, max(0.1, rounding))


def _far(one: Tensor, other: Tensor, tolerance: float) -> bool:
    finite = one.isfinite()
    one, other = one[finite].double(), other[finite].double()
    return not bool((one - other).norm() <= tolerance * one.norm() + 1e-5 * one.numel() ** 0.5)  # NaN is far


def _first_sample(model: nn.Module, sites: Mapping[str, SiteModule], rows: Tensor) -> dict[str, _Arrival]:
    """What the first of `rows` and its tangent are where they arrive, when it alone is perturbed at every site."""
    passed, found = ["the model's input"], {}

    def look(name: str, dual: Tensor) -> None:
        value, tangent = forward_ad.unpack_dual(dual)
        tangent = torch.zeros_like(value) if tangent is None else tangent
        if bool((tangent[1:].nan_to_num() != 0).any()):  # NaN: a slope of inf, times 0
            _refuse_mixed(passed[-1])
        found[name] = _Arrival(passed[-1], value[0].clone(), tangent[0].clone())

    def arrive(name: str, _: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        look(name, arguments[0])

    def first_alone(name: str, _: Tensor, s: Tensor) -> Tensor:
        passed.append(f"site '{name}'")
        y = torch.zeros_like(s)
        y[0] = torch.linspace(-1, 2, y[0].numel(), device=s.device).view_as(y[0])  # no direction that a norm flattens
        return y

    of_sites = {id(p) for module in sites.values() for p in module.parameters(recurse=False)}
    directions = {n: torch.zeros_like(p) for n, p in model.named_parameters() if id(p) not in of_sites}
    with torch.no_grad(), forward_ad.dual_level(), naming_missing_formulas(model, passed):
        with hooks(sites, arrive, nn.Module.register_forward_pre_hook):
            outputs = dual_forward(model, rows, sites, first_alone, directions)
        look("the output", outputs)
    return found


def _refuse_mixed(after: str) -> NoReturn:
    raise ModelRefused(
        f"{after} is followed by an operation that mixes the samples of a batch; per-sample guesses need samples that "
        "do not meet: use another operation, or weight-perturbation"
    )


@contextmanager
def naming_missing_formulas(model: nn.Module, passed: Sequence[str]) -> Iterator[None]:
    """Within it, the error for an operation without a forward-mode formula is a ModelRefused that names the last of
    what the pass has come to, and the layer that the operation is in."""
    try:
        yield
    except NotImplementedError as cause:
        reason = str(cause).splitlines()[0]
        raise ModelRefused(
            f"{passed[-1]} is followed by an operation without a forward-mode formula{_layer_of(model, cause)} "
            f"({reason}); use an operation that has one, or the method backprop"
        ) from cause


def _layer_of(model: nn.Module, error: Exception) -> str:
    """Completes «an operation …» by the innermost layer that the error came through, if it is not the model itself."""
    names = {id(module): name for name, module in model.named_modules()}
    through = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    inner = [one for one in through if id(one) in names]
    return f", in layer '{names[id(inner[-1])]}' ({type(inner[-1]).__name__})" if inner and names[id(inner[-1])] else ""


def refuse_other_uses(model: nn.Module, sites: Mapping[str, SiteModule], example: Tensor) -> None:
    """Raises ModelRefused where a site's parameter is used outside its layer too: its gradient there would be lost.

    One pass with tangents on the parameters of all sites, each cut off at its site's output: none may arrive at a
    site or at the model's output. Raises it as well for an operation that has no forward-mode formula.
    """
    if lacks_layer_formulas(example.device):
        return

    arriving: list[Tensor | None] = []

    def cut(_: str, __: nn.Module, arguments: tuple[Tensor, ...], s: Tensor) -> Tensor:
        arriving.append(forward_ad.unpack_dual(arguments[0]).tangent)
        return forward_ad.unpack_dual(s).primal

    of_sites = {id(p) for module in sites.values() for p in module.parameters(recurse=False)}
    with torch.no_grad(), forward_ad.dual_level(), math_attention(), hooks(sites, cut):
        duals = {
            name: forward_ad.make_dual(p.detach(), torch.ones_like(p))
            for name, p in model.named_parameters()
            if id(p) in of_sites
        }
        outputs = torch.func.functional_call(model, duals, (example,))
        if any(tangent is not None for tangent in (*arriving, forward_ad.unpack_dual(outputs).tangent)):
            raise ModelRefused(
                f"a parameter of a {LAYERS} layer is also used outside that layer, where its gradient would be "
                "lost; give each use a parameter of its own, or use weight-perturbation"
            )


def refuse_disagreement(model: nn.Module, traced: Traced, sites: Mapping[str, SiteModule], example: Tensor) -> None:
    """Raises ModelRefused where the traced graph computes another output than the model itself: of a site, which it
    names, or of the model."""
    found: dict[str, tuple[Tensor, fx.Node]] = {}

    def record(name: str, _: nn.Module, __: tuple[Tensor, ...], s: Tensor) -> None:
        if name in traced.site_nodes:
            found[f"the output of site '{name}'"] = s.clone(), traced.site_nodes[name]

    with torch.no_grad(), math_attention(), hooks(sites, record):
        outputs = model(example)
    output = next(node for node in traced.graph.nodes if node.op == "output")
    found["the model's output"] = outputs, output.all_input_nodes[0]
    values = traced.run(example, [node for _, node in found.values()])
    for which, (own, node) in found.items():
        largest = own.abs().max().clamp_min(torch.finfo(own.dtype).tiny)
        if own.isfinite().all() and not (values[node] - own).abs().max() <= 1e-3 * largest:
            raise ModelRefused(
                f"{which} is another when the model is computed a second time: something before it "
                "draws random numbers (dropout in train mode), keeps state, or changes a tensor in place that is used "
                "again under its old name; put the layer into eval mode or use the operation that returns a new "
                "tensor, or use activation-perturbation"
            )


def refuse_changing(model: nn.Module, example: Tensor) -> None:
    """Raises ModelRefused where two passes over the same inputs, with the same random numbers, differ."""
    again = layers_again(example.device)
    with torch.no_grad(), math_attention():
        first = model(example)
        again()
        second = model(example)
        again()
    if not torch.equal(first.nan_to_num(), second.nan_to_num()):
        raise ModelRefused(
            "the model gives another output when it is called again (it keeps state in its forward, say), and "
            "memory=replay calls it twice a step; make forward a function of its input, or use memory=store"
        )


def refuse_random_layers(model: nn.Module, example: Tensor) -> None:
    """Raises ModelRefused where the model draws random numbers: a sample's copies could not share a tangent.

    Torch's generators tell, or else the outputs of one sample that is twice in a batch. Raises it as well where the
    model changes its buffers or gives no tensor.
    """
    with torch.no_grad(), math_attention():
        outputs = _called(model, example[:2].repeat_interleave(2, 0))
    first, second = outputs.unflatten(0, (-1, 2)).unbind(1)
    same = torch.allclose(first, second, rtol=1e-3, atol=1e-5, equal_nan=True)
    if not same or layers_draw(model, example):
        raise ModelRefused(
            "the model is random (a Dropout in train mode, say): its copies of a sample differ, one for each tangent; "
            "use tangents=1, or put the layer into eval mode"
        )
