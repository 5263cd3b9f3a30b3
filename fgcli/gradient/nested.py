"""Tensors within what models take and give: tuples, lists, mappings, dataclasses."""

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor


def mapped(function: Callable[[Any], Any], values: Any) -> Any:
    """`function` of all that is within tuples, lists, mappings and dataclasses, in their structure."""
    if isinstance(values, Tensor):
        return function(values)
    if isinstance(values, tuple | list):
        made = [mapped(function, value) for value in values]
        if hasattr(values, "_fields"):
            return type(values)(*made)
        return values if isinstance(values, torch.Size) else type(values)(made)
    if isinstance(values, Mapping):
        made = copy.copy(values)
        for key, value in values.items():
            made[key] = mapped(function, value)  # pyright: ignore[reportIndexIssue]
        return made
    if dataclasses.is_dataclass(values) and not isinstance(values, type):
        fields = [one.name for one in dataclasses.fields(values) if one.init]
        return dataclasses.replace(values, **{name: mapped(function, getattr(values, name)) for name in fields})
    return function(values)


def leaves(values: Any) -> list[Tensor]:
    """The floating-point tensors within tuples, lists, mappings and dataclasses."""
    if isinstance(values, Tensor):
        return [values] if values.is_floating_point() else []
    found: list[Tensor] = []

    def note(value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_floating_point():
            found.append(value)
        return value

    mapped(note, values)
    return found


def first_tensor(values: Any) -> Tensor:
    """The first tensor with axes within tuples, lists, mappings and dataclasses."""
    found: list[Tensor] = []
    mapped(lambda value: found.append(value) if isinstance(value, Tensor) and value.dim() else None, values)
    return found[0]


def batch_size(inputs: Any) -> int:
    """The number of samples of a model's inputs: the length of the first axis of the first tensor."""
    return len(first_tensor(inputs))


def rebuilt(values: Any, new: Sequence[Tensor | None]) -> Any:
    """The same structure with other tensors in place of its `leaves`, in their order."""
    rest = iter(new)
    return mapped(lambda v: next(rest) if isinstance(v, Tensor) and v.is_floating_point() else v, values)


def behind(values: Iterable[Tensor]) -> Iterator[Tensor]:
    """The leaves that the graph of these starts from."""
    seen, ahead = set(), [value.grad_fn for value in values]
    while ahead:
        node = ahead.pop()
        if node is not None and node not in seen:
            seen.add(node)
            if isinstance(leaf := getattr(node, "variable", None), Tensor):
                yield leaf
            ahead += [following for following, _ in node.next_functions]


def pulled(pairs: Iterable[tuple[Tensor, Tensor]], to: Sequence[Tensor], *, keep: bool = True) -> tuple[Tensor, ...]:
    """The vjp of tensors and cotangents, those with a graph: one tensor for each of `to`, 0 where none leads."""
    attached = [(one, u.to(one.dtype)) for one, u in pairs if one.requires_grad]
    ends, cotangents = [one for one, _ in attached], [u for _, u in attached]
    return torch.autograd.grad(ends, to, cotangents, retain_graph=keep, allow_unused=True, materialize_grads=True)


def detached(value: Any) -> Any:
    """A tensor without its graph, and without its tangent; any other value itself."""
    return value.detach() if isinstance(value, Tensor) else value


def copied(value: Any) -> Any:
    """A copy of a tensor; any other value itself."""
    return value.clone() if isinstance(value, Tensor) else value


def described(value: Any) -> str:
    """What a value is, for messages: `a tensor [3, 4]`, `a list`."""
    return f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def unpacked(value: Any) -> tuple[Any, Tensor | None]:
    """A tensor without its tangent, and that, if it has one; any other value itself."""
    return forward_ad.unpack_dual(value) if isinstance(value, Tensor) else (value, None)


def primal_of(value: Any) -> Any:
    """A tensor without its tangent; any other value itself."""
    return unpacked(value)[0]


def tangent_of(value: Tensor) -> Tensor | None:
    """Its tangent, if it has one."""
    return forward_ad.unpack_dual(value).tangent


def moving(value: Any) -> Any:
    """A tensor with its tangent, or one of 0. Recurrent layers find none's shape by Python kernels, at each time.

    Outside a dual level itself.
    """
    level: int = forward_ad._current_level  # torch has no other name for it
    if level < 0 or not isinstance(value, Tensor) or not value.is_floating_point() or tangent_of(value) is not None:
        return value
    return forward_ad.make_dual(value, torch.zeros_like(value))


def no_view(value: Tensor) -> Tensor:
    """Itself, or a copy of a view, which a forward that goes on in place must not be given if no_grad made it."""
    return value if value._base is None else value.clone()
