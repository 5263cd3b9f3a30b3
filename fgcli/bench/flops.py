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


def _added_product(shape: Shape, left: Shape, right: Shape, *rest: Any, **named: Any) -> int:
    return 2 * left[0] * left[1] * right[1]


def _cholesky(shape: Shape, *rest: Any, **named: Any) -> int:
    *batch, _, n = shape
    return math.prod(batch) * n**3 // 3


def _triangular_solve(shape: Shape, right: Shape, *rest: Any, **named: Any) -> int:
    *batch, _, n = shape
    columns = right[-1]
    return math.prod(batch) * n**2 * columns


def _qr(shape: Shape, *rest: Any, **named: Any) -> int:
    """Householder's, with Q formed: 4 (m² n - m n² + n³/3) for the thin one is twice that of R alone."""
    *batch, rows, columns = shape
    m, n = max(rows, columns), min(rows, columns)
    return math.prod(batch) * 2 * (2 * n**2 * m - 2 * n**3 // 3)


def _symmetric_eigen(shape: Shape, *rest: Any, **named: Any) -> int:
    *batch, _, n = shape
    return math.prod(batch) * 9 * n**3


def _svd(shape: Shape, *rest: Any, **named: Any) -> int:
    """The thin one, U and V formed, m ≥ n: 14 m n² + 8 n³."""
    *batch, rows, columns = shape
    m, n = max(rows, columns), min(rows, columns)
    return math.prod(batch) * (14 * m * n**2 + 8 * n**3)


_ATEN = torch.ops.aten
_UNKNOWN_TO_PYTORCH: dict[Any, Any] = {
    _ATEN.addmm_: _added_product,
    _ATEN.linalg_cholesky_ex: _cholesky,
    _ATEN.linalg_solve_triangular: _triangular_solve,
    _ATEN.linalg_qr: _qr,
    _ATEN._linalg_eigh: _symmetric_eigen,
    _ATEN._linalg_svd: _svd,
}
