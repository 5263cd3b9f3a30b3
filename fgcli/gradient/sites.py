"""Sites: the parametrised layers whose outputs s_i a guess perturbs, and what their weights' gradients are made of."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from typing_extensions import TypeIs

from fgcli.gradient.errors import ModelRefused
from fgcli.gradient.upstream import LinearUpstream, UpstreamJacobian

SiteModule = nn.Linear | nn.Conv1d | nn.Conv2d
LAYERS = "Linear, Conv1d or Conv2d"


@dataclass
class Site:
    """One parametrised layer, as a guess method sees it."""

    name: str
    module: SiteModule
    shape: tuple[int, ...]
    """The shape of s_i without the batch axis."""
    step: int = 0
    """Number of the parameter update."""
    memory: dict[str, Tensor] = field(default_factory=dict)
    """What a method keeps from one `prepare` to the next (warm starts). Checkpointed with the run."""
    next_layer: nn.Linear | None = None
    slope: Tensor | None = None
    jacobian: UpstreamJacobian | None = None
    """W̃ of the present batch, where the site has no `next_layer`."""
    output: Tensor | None = None
    """s_i [batch, *shape] of the present batch, for guesses made of activations. None in `prepare`."""

    @property
    def dim(self) -> int:
        """d_i, the dimension of s_i."""
        return math.prod(self.shape)

    def warm_start(self, key: str) -> Tensor | None:
        """What `memory` holds under that key, in the weights' dtype and on their device: they may change in a run."""
        kept = self.memory.get(key)
        return None if kept is None else kept.to(self.module.weight)

    @property
    def next_weight(self) -> Tensor:
        """W_{i+1} [d_out, d_in] of the next site, a linear layer behind an elementwise activation."""
        if self.next_layer is None:
            raise RuntimeError(f"site '{self.name}' has no next layer here; a method that uses it sets needs")
        return self.next_layer.weight.detach()

    @property
    def upstream(self) -> UpstreamJacobian:
        """W̃_{i+1} of the present batch. Not known in `prepare`, which sees no samples."""
        return self.linear_upstream if self.jacobian is None else self.jacobian

    @property
    def linear_upstream(self) -> LinearUpstream:
        """W̃_{i+1} of the present batch with its weight and slope, for methods that need the matrix."""
        if self.slope is None:
            raise RuntimeError(f"site '{self.name}' has no upstream Jacobian here; ask for it in map, with needs set")
        return LinearUpstream(self.next_weight, self.slope)

    def parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The layer's own parameters by their names in the model."""
        prefix = f"{self.name}." if self.name else ""
        return self.module.named_parameters(prefix.removesuffix("."), recurse=False)


def is_site(module: nn.Module) -> TypeIs[SiteModule]:
    """Whether a weight gradient is known for this layer: a Linear, Conv1d or Conv2d that computes what its class does.

    A subclass with a forward of its own, or a weight made by a parametrisation, is none; its parameters are
    then ones that no site covers.
    """
    return any(
        isinstance(module, kind) and type(module).forward is kind.forward for kind in (nn.Linear, nn.Conv1d, nn.Conv2d)
    ) and isinstance(module._parameters.get("weight"), nn.Parameter)


def named_site_modules(model: nn.Module) -> dict[str, SiteModule]:
    """Candidate sites by name, in the order of definition."""
    return {name: module for name, module in model.named_modules() if is_site(module)}


def padding_rows(model: nn.Module) -> dict[str, int]:
    """The row that an embedding's `padding_idx` leaves untrained, by the weight's name, where nothing else uses it."""
    uses: dict[int, int] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    return {
        f"{name}.weight".removeprefix("."): module.padding_idx
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag)
        and module.padding_idx is not None
        and uses[id(module.weight)] == 1
    }


def refuse_frozen(model: nn.Module) -> None:
    """Raises ModelRefused where no parameter is to be trained."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelRefused(
            f"no parameter of the model ({type(model).__name__}) requires a gradient, so that nothing would be "
            "trained; set requires_grad of those that should be"
        )


def refuse_wrapped(model: nn.Module) -> None:
    """Raises ModelRefused for layers that torch.compile or data parallelism has put into another, or changed."""
    for name, module in model.named_modules():
        which = f"layer '{name}' ({type(module).__name__})" if name else f"the model ({type(module).__name__})"
        if "_orig_mod" in module._modules or module._compiled_call_impl is not None:
            raise ModelRefused(
                f"{which} is compiled, and forward-mode differentiation goes through Python: use what torch.compile "
                "was given (its _orig_mod), leave out .compile(), or use backprop"
            )
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            raise ModelRefused(f"{which} spreads a batch over copies, which this method cannot follow: use its .module")


def refuse_no_site(model: nn.Module) -> None:
    """Raises ModelRefused for a model whose forward calls no site. Names layers that would be, but for their weight."""
    others = [
        f"'{name}' ({type(module).__name__})"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d) and not is_site(module)
    ]
    none = f"the model has no site: no {LAYERS} layer that its forward calls"
    if others:
        none += (
            f"; none are {', '.join(others)}, for a forward of their own or a weight that a parametrisation makes "
            "(weight_norm, say): remove that, or use backprop"
        )
    raise ModelRefused(none)


def refuse_shared_weights(sites: Mapping[str, SiteModule]) -> None:
    """Raises ModelRefused where two sites share a parameter: its gradient would be the sum over both."""
    owners: dict[int, str] = {}
    for name, module in sites.items():
        for parameter in module.parameters(recurse=False):
            other = owners.setdefault(id(parameter), name)
            if other != name:
                raise ModelRefused(
                    f"sites '{other}' and '{name}' share a parameter, which this method cannot train; "
                    "give each its own, or use weight-perturbation"
                )


def refuse_hooks(sites: Mapping[str, SiteModule]) -> None:
    """Raises ModelRefused where a hook of the user's may change what a site takes or gives.

    Its guess would be of another s. With several tangents, and in W̃, what arrives at a site is given to it past hooks.
    """
    for name, module in sites.items():
        for hooks, kind, changed in (
            (module._forward_hooks, "forward hook", "output"),
            (module._forward_pre_hooks, "forward pre-hook", "input"),
        ):
            if hooks:
                raise ModelRefused(
                    f"site '{name}' ({type(module).__name__}) has a {kind}, which may change its {changed}; remove it, "
                    "make a layer of what it does, or use weight-perturbation"
                )


def refuse_mixing(name: str, module: nn.Module) -> None:
    """Raises ModelRefused where this layer is a BatchNorm that mixes the samples of a batch."""
    if not isinstance(module, nn.modules.batchnorm._BatchNorm):
        return
    if module.training:
        raise ModelRefused(
            f"layer '{name}' ({type(module).__name__}) is in train mode, where it mixes the samples of a batch "
            "and changes its buffers; use GroupNorm or LayerNorm, or put it into eval mode"
        )
    if module.running_mean is None:
        raise ModelRefused(
            f"layer '{name}' ({type(module).__name__}) tracks no running statistics, so that it mixes the samples "
            "of a batch in eval mode too; use GroupNorm or LayerNorm"
        )


def linear_part(module: SiteModule, inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The layer's operation on `inputs` with another weight and bias: bilinear in inputs and weight.

    The layer's tangent follows from it by hand: PyTorch's own forward-mode formula multiplies by the zero tangents of
    the weight as well, which costs half as much again, and on MPS there is none.
    """
    if isinstance(module, nn.Linear):
        return nn.functional.linear(inputs, weight, bias)
    return module._conv_forward(inputs, weight, bias)


def weight_gradients(site: Site, inputs: Tensor, output_gradient: Tensor) -> dict[str, Tensor]:
    """Eq. 3: gradients of the layer's own parameters, by name, from a gradient with respect to its output.

    inputs [batch, ...] is what the layer saw, output_gradient [batch, *site.shape] the guess δ_b y_b. This is the
    chain rule's last local term, ∂s_i/∂W_i; parameters that do not require grad are left out.
    """
    module = site.module
    gradients: dict[str, Tensor] = {}
    for name, parameter in site.parameters():
        if not parameter.requires_grad:
            continue
        if name.endswith("bias"):
            axis = -1 if isinstance(module, nn.Linear) else 1
            gradients[name] = output_gradient.movedim(axis, -1).flatten(0, -2).sum(0)
        elif isinstance(module, nn.Linear):
            gradients[name] = output_gradient.flatten(0, -2).T @ inputs.flatten(0, -2)
        else:
            gradients[name] = _convolution_weight_gradient(module, inputs, output_gradient)
    return gradients


def _convolution_weight_gradient(module: nn.Conv1d | nn.Conv2d, inputs: Tensor, output_gradient: Tensor) -> Tensor:
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        inputs = nn.functional.pad(
            inputs,
            module._reversed_padding_repeated_twice,
            mode="constant" if module.padding_mode == "zeros" else module.padding_mode,
        )
        padding = [0] * len(module.stride)
    else:
        padding = list(module.padding)
    _, gradient, _ = torch.ops.aten.convolution_backward(
        output_gradient,
        inputs,
        module.weight.detach(),
        None,
        module.stride,
        padding,
        module.dilation,
        False,
        [0] * len(module.stride),
        module.groups,
        (False, True, False),
    )
    return gradient
