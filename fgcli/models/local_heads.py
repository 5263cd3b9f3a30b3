"""Heads of local losses for any model: where they are put, and what they are.

projection   z = M a, the layer's output flattened, without a bias: Mono-Forward's (Gong et al. 2025, arXiv:2501.09238).
group        z = Σ_{p,g} M_g a_{p,g} / positions: the mean over positions, then a linear layer, taken apart by position
             and by group of channels, so that each part has a directional derivative of its own: LG-FG-A's (Ren et al.
             2023, arXiv:2210.03310), without a bias. Its value and its gradient are those of the whole.

Of a model that gives logits for each token both are taken at each token: z_t = M a_t, and z_t = Σ_g M_g a_{t,g}.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fgcli.errors import UsageError, unknown
from fgcli.gradient.buffers import BufferState
from fgcli.gradient.local_losses import LocalHead, LocalLosses


class Projection(LocalHead):
    """M a of an output a [batch, *shape], flattened; with `tokens`, of each token's in [batch, length, *shape]."""

    def __init__(self, shape: Sequence[int], outputs: int, generator: torch.Generator, *, tokens: bool) -> None:
        super().__init__()
        self.first = 1 + tokens  # the first axis that is flattened
        self.weight = _weight(outputs, math.prod(shape), generator=generator)

    def forward(self, a: Tensor) -> Tensor:
        a = a if a.dim() == self.first + 1 else a.flatten(self.first)
        return F.linear(a, self.weight).unsqueeze(-2)


class GroupHead(LocalHead):
    """Parts of M mean_p(a_p), one a position and group of channels; or of M a_t of each token, one a group.

    `shape` is that of one sample's output: [channels], [positions, channels], or, with `channels_first`, [channels,
    *lengths]; with `tokens`, [tokens, channels]. `groups` divide the channels.
    """

    def __init__(
        self,
        shape: Sequence[int],
        outputs: int,
        generator: torch.Generator,
        groups: int,
        *,
        channels_first: bool,
        tokens: bool,
    ) -> None:
        super().__init__()
        self.groups, self.channels_first, self.tokens = groups, channels_first, tokens
        channels = shape[0] if channels_first else shape[-1]
        self.positions = 1 if tokens else math.prod(shape) // channels
        self.weight = _weight(groups * outputs, channels // groups, 1, generator=generator, inputs=channels)

    def forward(self, a: Tensor) -> Tensor:
        # [batch, channels, positions]
        a = a.unsqueeze(2) if a.dim() == 2 else a.flatten(2) if self.channels_first else a.transpose(1, 2)
        parts = F.conv1d(a / self.positions, self.weight, groups=self.groups)
        # [batch, groups · outputs, positions] -> [batch, positions, groups, outputs]
        parts = parts.unflatten(1, (self.groups, -1)).permute(0, 3, 1, 2)
        return parts if self.tokens else parts.flatten(1, 2)


def with_local_losses(
    model: nn.Module, at: int | str, head: str, groups: int, example: Tensor, outputs: int, generator: torch.Generator
) -> LocalLosses:
    """A model with a head at every `at`-th layer, or at the modules that `at` names, separated by commas.

    The model gives [batch, outputs] in train mode, or [batch, length, outputs] for tokens; `example` is inputs of two
    samples. UsageError for layers that do not exist, a model that gives something else, and groups that divide no
    channels.
    """
    names = _every(model, at) if isinstance(at, int) else _named(model, at)
    shapes: dict[str, list[Any]] = {name: [] for name in names}
    ends: dict[str, Any] = {}
    convolutions: list[tuple[int, ...]] = []
    buffers = BufferState(model)

    def hook_of(name: str) -> Callable[..., None]:
        def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            shapes[name].append((shape, shape in convolutions))
            ends[name] = output

        return note

    modules = dict(model.named_modules())
    convolves = [one for one in modules.values() if isinstance(one, nn.Conv1d | nn.Conv2d | nn.Conv3d)]
    handles = [one.register_forward_hook(lambda *a: convolutions.append(tuple(a[2].shape))) for one in convolves]
    handles += [modules[name].register_forward_hook(hook_of(name)) for name in names]
    try:
        with torch.no_grad():
            given = model(example)
    finally:
        for handle in handles:
            handle.remove()
        buffers.restore()
    length = () if example.is_floating_point() else tuple(example.shape[1:])
    if not isinstance(given, Tensor) or given.shape != (2, *length, outputs):
        found = list(given.shape) if isinstance(given, Tensor) else type(given).__name__
        wanted = f"[batch, {length[0]}, {outputs}], of each token," if length else f"[batch, {outputs}]"
        why = "a head would count what stands behind a text's end" if length else "it has local losses of its own"
        raise UsageError(
            f"--local-losses takes a model that gives {wanted} in train mode; this one gives {found} for 2 samples "
            f"({why}): leave --local-losses out"
        )
    made: dict[str, LocalHead] = {}
    for name in names:
        if len(shapes[name]) != 1:
            times = f"{len(shapes[name])} times" if shapes[name] else "never"
            raise UsageError(f"--local-losses names {name}, which the forward calls {times}; a head needs one call")
        if ends[name] is given:
            raise UsageError(
                f"--local-losses names {name}, which gives the model's own output: the model's loss is there already, "
                "and would train nothing behind a head; leave it out"
            )
        (shape, convolved) = shapes[name][0]
        of_tokens = not length or (shape[1:-1] == length and not convolved)
        if isinstance(shape, str) or len(shape) < 2 or shape[0] != 2 or not of_tokens:
            wanted = f"[2, {length[0]}, width], since the model gives logits for each token" if length else "[2, ...]"
            raise UsageError(f"--local-losses names {name}, which gives {shape} for 2 samples; a head takes {wanted}")
        if head == "projection":
            made[name] = Projection(shape[1 + len(length) :], outputs, generator, tokens=bool(length))
            continue
        first = (len(shape) > 3 or convolved) and not length
        channels = shape[1] if first else shape[-1]
        if channels % groups:
            raise UsageError(f"--local-groups is {groups}; it must divide the {channels} channels of {name}")
        made[name] = GroupHead(shape[1:], outputs, generator, groups, channels_first=first, tokens=bool(length))
    return LocalLosses(model, made, outputs)


def _weight(*shape: int, generator: torch.Generator, inputs: int | None = None) -> nn.Parameter:
    """As nn.Linear begins: uniform, of variance 1 / (3 · inputs)."""
    bound = 1 / math.sqrt(inputs or shape[1])
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=generator))


def _has_weight(module: nn.Module) -> bool:
    return any(one.dim() > 1 for one in module.parameters())


def _every(model: nn.Module, every: int) -> list[str]:
    """The ends of every so many layers: an element with a weight of the model's longest sequence, and what follows it
    there. Without the last layer of a model that is one sequence: its output is the model's."""
    stacks = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Sequential | nn.ModuleList)]
    counted = [(sum(map(_has_weight, stack)), name, stack) for name, stack in stacks]
    count, prefix, stack = max(counted, key=lambda one: one[0], default=(0, "", nn.Sequential()))
    ends: list[str] = []
    for name, module in stack.named_children():
        full = f"{prefix}.{name}".removeprefix(".")
        if _has_weight(module):
            ends.append(full)
        elif ends and not isinstance(module, nn.Flatten):
            ends[-1] = full
    if ends and not prefix:  # the sequence is the whole model
        ends.pop()
    if count < 2 or not ends:
        raise UsageError(
            f"--local-losses is {every}, but the model has no sequence of layers (an nn.Sequential or nn.ModuleList); "
            f"name modules instead: {_some(model)}"
        )
    if every > len(ends):
        raise UsageError(
            f"--local-losses is {every}; it must be from 1 to {len(ends)}, the layers before the output: "
            f"{', '.join(ends)}"
        )
    return ends[every - 1 :: every]


def _named(model: nn.Module, given: str) -> list[str]:
    names = [name.strip() for name in given.split(",") if name.strip()]
    known = [name for name, _ in model.named_modules() if name]
    for name in names:
        if name not in known:
            raise unknown("layer of the model", name, known, where="--local-losses")
        if names.count(name) > 1:
            raise UsageError(f"--local-losses names {name} twice; name it once")
    if not names:
        raise UsageError(f"--local-losses is {given!r}; it must be a number, or names of modules: {_some(model)}")
    return names


def _some(model: nn.Module) -> str:
    names = [name for name, module in model.named_modules() if name and _has_weight(module)]
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
