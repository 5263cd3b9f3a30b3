"""Floating-point operations of a step, by PyTorch's counter: those of matrix products, convolutions and factorisations.

A multiply-add is two. What works element by element (activations, the optimiser, random numbers) is not counted. The
tangents of forward-mode AD are counted as any other product. Factorisations are counted by Golub and Van Loan, Matrix
Computations, 4th ed.; PyTorch's counter itself knows none of them, nor products that are added in place.
"""

import math
from collections.abc import Callable
from typing import Any, Self

import torch
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker

Shape = tuple[int, ...]


class _NoModules(ModuleTracker):
    """Follows no module: PyTorch's own puts hooks on tensors, with which the products of an upstream Jacobian fail."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        pass


def count_flops(run: Callable[[], object]) -> int:
    """What calling `run` takes."""
    counter = FlopCounterMode(display=False, custom_mapping=_UNKNOWN_TO_PYTORCH)
    counter.mod_tracker = _NoModules()  # how much is in which module is not asked for
    with counter:
        run()
    return int(counter.get_total_flops())


def _factorisation(flops: Callable[[int, int], float]) -> Callable[..., int]:
    """Of a batch of matrices, each of which takes so many for its larger and its smaller side, m ≥ n."""

    def count(shape: Shape, *rest: Any, **named: Any) -> int:
        *batch, rows, columns = shape
        return int(math.prod(batch) * flops(max(rows, columns), min(rows, columns)))

    return count


_ATEN = torch.ops.aten
_UNKNOWN_TO_PYTORCH: dict[Any, Any] = {
    _ATEN.addmm_: lambda shape, left, right, *_, **__: 2 * left[0] * left[1] * right[1],
    _ATEN.linalg_cholesky_ex: _factorisation(lambda m, n: n**3 / 3),
    _ATEN.linalg_solve_triangular: lambda shape, right, *_, **__: math.prod(shape[:-2]) * shape[-1] ** 2 * right[-1],
    # Householder's, with Q formed: 4 (m² n - m n² + n³/3) for the thin one is twice that of R alone.
    _ATEN.linalg_qr: _factorisation(lambda m, n: 2 * (2 * n**2 * m - 2 * n**3 // 3)),
    _ATEN._linalg_eigh: _factorisation(lambda m, n: 9 * n**3),
    _ATEN._linalg_svd: _factorisation(lambda m, n: 14 * m * n**2 + 8 * n**3),  # the thin one, U and V formed
}
