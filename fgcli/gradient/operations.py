"""Operations in which a weight meets data, and what is known of them in closed form.

Any operation of `CONTRACTIONS` is a use. For the two commonest kinds, linear layers and convolutions, the tangent and
the weight's gradient are formed by hand: PyTorch's own forward-mode formula multiplies by the zero tangents of the
weight as well, which costs half as much again, and on MPS there is none. tests/gradient/test_operations.py holds both
to the general way.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fgcli.gradient.errors import ModelRefused

LINEAR = {F.linear}
CONVOLUTIONS: dict[Any, int] = {
    F.conv1d: 1, F.conv2d: 2, F.conv3d: 3, torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3,
}  # fmt: skip
RECURRENT = {
    torch._VF.lstm, torch._VF.gru, torch._VF.rnn_tanh, torch._VF.rnn_relu,
    torch._VF.lstm_cell, torch._VF.gru_cell, torch._VF.rnn_tanh_cell, torch._VF.rnn_relu_cell,
}  # fmt: skip
TABLES = {F.embedding, F.embedding_bag}
LOOKUPS = {
    *TABLES, torch.embedding, torch.index_select, Tensor.index_select, Tensor.__getitem__,
}  # fmt: skip
CONTRACTIONS = {
    *LINEAR, *CONVOLUTIONS, *RECURRENT, *LOOKUPS,
    F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d,
    torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d,
    F.bilinear, torch.bilinear, torch.matmul, Tensor.matmul, Tensor.__matmul__, Tensor.__rmatmul__, torch.mm, Tensor.mm,
    torch.bmm, Tensor.bmm, torch.mv, Tensor.mv, torch.addmm, Tensor.addmm, torch.addmv, Tensor.addmv,
    torch.baddbmm, Tensor.baddbmm, torch.addbmm, Tensor.addbmm, torch.einsum, torch.tensordot, torch.inner,
    Tensor.inner, torch.linalg.multi_dot,
}  # fmt: skip


def is_bilinear(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether this call is func(x, weight, bias, …) of a linear layer or a convolution, all by position."""
    return (func in LINEAR or func in CONVOLUTIONS) and not kwargs and len(args) > 1


def linear_part(func: Any, args: tuple[Any, ...], x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The bilinear operation of `args` on another input, weight and bias."""
    return func(x, weight, bias, *args[3:])


def bilinear_gradients(
    func: Any, args: tuple[Any, ...], x: Tensor, output_gradient: Tensor
) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """The gradients of weight and bias of a bilinear operation, each computed when asked for.

    Args:
        func: the operation, as `is_bilinear` has it.
        args: what it was called with; the weight is `args[1]`.
        x: its input.
        output_gradient: the gradient with respect to its output, in its shape.

    Returns:
        Functions that give the gradients of the weight and of the bias, in their shapes (Eq. 3 of the W̃⊥ paper).
    """
    if func in LINEAR:
        rows = output_gradient.reshape(-1, output_gradient.shape[-1])
        return lambda: rows.T @ x.reshape(-1, x.shape[-1]), lambda: rows.sum(0)
    axes = CONVOLUTIONS[func]
    batched = output_gradient.dim() == axes + 2
    g, inputs = (output_gradient, x) if batched else (output_gradient.unsqueeze(0), x.unsqueeze(0))
    return (
        lambda: _convolution_weight_gradient(axes, args, inputs, g),
        lambda: g.movedim(1, -1).flatten(0, -2).sum(0),
    )


def _convolution_weight_gradient(axes: int, args: tuple[Any, ...], x: Tensor, g: Tensor) -> Tensor:
    around, settings = _convolution_settings(axes, args)
    padded = F.pad(x, around) if around else x
    weight = args[1].detach()
    _, gradient, _ = torch.ops.aten.convolution_backward(g, padded, weight, None, *settings, (False, True, False))
    return gradient


def _convolution_settings(axes: int, args: tuple[Any, ...]) -> tuple[list[int], tuple[Any, ...]]:
    """What the input is padded by beforehand, and stride, padding and so on as convolution_backward takes them."""
    weight: Tensor = args[1]

    def setting(position: int, default: int) -> Any:
        value = args[position] if len(args) > position else default
        return [value] * axes if isinstance(value, int) else value

    stride, padding, dilation = setting(3, 1), setting(4, 0), setting(5, 1)
    groups = args[6] if len(args) > 6 else 1
    around: list[int] = []
    if isinstance(padding, str):
        total = [d * (size - 1) if padding == "same" else 0 for d, size in zip(dilation, weight.shape[2:], strict=True)]
        around = [side for one in reversed(total) for side in (one // 2, one - one // 2)]
        padding = [0] * axes
    return around, (list(stride), list(padding), list(dilation), False, [0] * axes, groups)


def input_gradient(func: Any, args: tuple[Any, ...], x: Tensor, output_gradient: Tensor) -> Tensor:
    """The vjp of a bilinear operation with respect to its input, which is linear: its value is not needed.

    Args:
        func: the operation, as `is_bilinear` has it.
        args: what it was called with; the weight is `args[1]`.
        x: an input, for its shape.
        output_gradient: a gradient with respect to the output, in its shape.

    Returns:
        The gradient with respect to the input, in the shape of `x`.
    """
    weight: Tensor = args[1].detach()
    if func in LINEAR:
        return output_gradient @ weight
    axes = CONVOLUTIONS[func]
    around, settings = _convolution_settings(axes, args)
    padded = (F.pad(x, around) if around else x).to(output_gradient.dtype)
    batched = output_gradient.dim() == axes + 2
    g, inputs = (output_gradient, padded) if batched else (output_gradient.unsqueeze(0), padded.unsqueeze(0))
    gradient, _, _ = torch.ops.aten.convolution_backward(
        g.contiguous(), inputs, weight, None, *settings, (True, False, False)
    )
    gradient = gradient if batched else gradient.squeeze(0)
    return F.pad(gradient, [-side for side in around]) if around else gradient


def following_backward(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], moved: Tensor) -> Tensor | None:
    """A lookup whose derivative along the table is the one that `backward` uses.

    Rules that act in backward only make the two differ: no gradient for the row of `padding_idx`, and division by a
    row's frequency in the batch. The value is left as it is.

    Args:
        func: the operation.
        args: what it was called with; the table is `args[1]`.
        kwargs: what it was called with by keyword.
        moved: the table with its tangent, in whatever way it has one [rows, d].

    Returns:
        The rows looked up, with their tangent; None where no such rule applies.

    Raises:
        ModelRefused: for an nn.EmbeddingBag that scales by frequency, whose rule is not followed here.
    """
    if func is F.embedding_bag and counts_rows(func, args, kwargs):
        raise ModelRefused(
            "an EmbeddingBag has scale_grad_by_freq, which weight perturbation cannot follow: leave it out"
        )
    if func is not F.embedding or len(args) < 2:
        return None
    given = _given_to_lookup(args, kwargs)
    ids, table = given["input"], given["weight"].detach()
    padding, by_frequency = given.get("padding_idx"), given.get("scale_grad_by_freq", False)
    if padding is None and not by_frequency:
        return None
    rows = F.embedding(ids, moved) - F.embedding(ids, table)  # 0, but for its tangent
    if padding is not None:
        rows = rows.masked_fill((ids == padding % len(table)).unsqueeze(-1), 0)
    if by_frequency:
        rows = rows / torch.bincount(ids.flatten(), minlength=len(table))[ids].unsqueeze(-1)
    # max_norm scales the table's rows in place, as the layer's own call does.
    return F.embedding(ids, table, None, given.get("max_norm"), given.get("norm_type", 2.0)) + rows


def _given_to_lookup(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    names = ("input", "weight", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse")
    return dict(zip(names, args, strict=False)) | dict(kwargs)


def gradient_of_rows(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], gradient: Tensor) -> Tensor | None:
    """The gradient of a table from that of the rows looked up, sparse: a dense one is as large as the table.

    None where no such rule applies: where rows are counted, and on GPUs, where sparse sums have no fixed order, if any.
    """
    if func is not F.embedding or counts_rows(func, args, kwargs) or gradient.device.type != "cpu":
        return None
    given = _given_to_lookup(args, kwargs)
    ids, table, padding = given["input"].flatten(), given["weight"], given.get("padding_idx")
    rows = gradient.reshape(len(ids), table.shape[1]).to(table.dtype)
    if padding is not None:
        rows = rows.masked_fill((ids == padding % len(table)).unsqueeze(1), 0)
    return torch.sparse_coo_tensor(ids.unsqueeze(0), rows, table.shape, check_invariants=False)


def counts_rows(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a lookup's backward divides by how often a row is looked up in the batch."""
    return func in TABLES and bool(kwargs.get("scale_grad_by_freq", args[5] if len(args) > 5 else False))


def padding_row(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int | None:
    """The row of its table that a lookup leaves untrained, if it has one."""
    if func not in TABLES:
        return None
    place = 2 if func is F.embedding else 8
    return kwargs.get("padding_idx", args[place] if len(args) > place else None)


@contextmanager
def runnable(func: Any) -> Iterator[None]:
    """Within it the operation has derivatives of every kind: oneDNN's fused recurrent layers have none."""
    if func not in RECURRENT:
        yield
        return
    enabled = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(enabled)


def derivable(func: Any) -> Any:
    """The operation, or the same written out of others where torch lacks a derivative of its own or of its backward."""
    return _WRITTEN_OUT.get(func, func)


def _hardsigmoid(x: Tensor, inplace: bool = False) -> Tensor:
    value = F.relu6(x + 3) / 6
    return x.copy_(value) if inplace else value


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    return v * (g / torch.norm_except_dim(v, 2, dim))


def packed(x: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
    """torch._VF._pack_padded_sequence, as a lookup of rows."""
    with torch.no_grad():
        steps = x.shape[1 if batch_first else 0]
        numbers = torch.arange(steps * len(lengths)).view(steps, len(lengths)).T
        where, sizes = torch._VF._pack_padded_sequence(numbers.unsqueeze(2), lengths, True)  # pyright: ignore[reportAttributeAccessIssue]
    in_time = x.transpose(0, 1) if batch_first else x
    return in_time.flatten(0, 1).index_select(0, where.flatten().to(x.device)), sizes


PACK = torch._VF._pack_padded_sequence  # pyright: ignore[reportAttributeAccessIssue]
_WRITTEN_OUT: dict[Any, Any] = {
    PACK: packed,
    F.hardsigmoid: _hardsigmoid,
    torch._weight_norm: _weight_norm,  # pyright: ignore[reportPrivateImportUsage]
}
