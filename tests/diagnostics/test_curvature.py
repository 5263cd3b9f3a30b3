"""Hessian and Gauss–Newton products against dense matrices."""

import pytest
import torch
from networks import batch_for, chain, cross_entropy
from torch import Tensor, nn

from fgcli.diagnostics import curvature
from fgcli.diagnostics.curvature import gauss_newton_product, hessian_product, top_eigenspace

MODEL = chain(4, 5, 3, activation=nn.Tanh)
BATCH = batch_for(MODEL, 6)
NAMES = ["0.weight", "2.weight"]


def flat_outputs(flat: Tensor) -> Tensor:
    shapes = [dict(MODEL.named_parameters())[name].shape for name in NAMES]
    parts = flat.split([shape.numel() for shape in shapes])
    chosen = {name: part.view(shape) for name, part, shape in zip(NAMES, parts, shapes, strict=True)}
    return torch.func.functional_call(MODEL, chosen, (BATCH.inputs,))


def flat_loss(flat: Tensor) -> Tensor:
    return cross_entropy(flat_outputs(flat), BATCH.targets).mean()


POINT = torch.cat([dict(MODEL.named_parameters())[name].detach().flatten() for name in NAMES])
HESSIAN = torch.func.hessian(flat_loss)(POINT)


def gauss_newton() -> Tensor:
    jacobian = torch.func.jacrev(flat_outputs)(POINT)  # [batch, outputs, parameters]
    outputs = flat_outputs(POINT)
    curved = torch.func.vmap(torch.func.hessian(lambda o, t: cross_entropy(o.unsqueeze(0), t.unsqueeze(0)).sum() / 6))(
        outputs, BATCH.targets
    )
    return torch.einsum("bop,boq,bqr->pr", jacobian, curved, jacobian)


def columns(product) -> Tensor:
    return torch.stack([product(e) for e in torch.eye(len(POINT), dtype=torch.float64)], 1)


@pytest.mark.parametrize("chunk", [1024, 4])
def test_products_are_those_of_the_dense_matrices(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curvature, "CHUNK", chunk)
    torch.testing.assert_close(columns(hessian_product(MODEL, cross_entropy, BATCH, NAMES)), HESSIAN)
    torch.testing.assert_close(columns(gauss_newton_product(MODEL, cross_entropy, BATCH, NAMES)), gauss_newton())


def test_they_differ_by_the_networks_own_curvature() -> None:
    assert (HESSIAN - gauss_newton()).abs().max() > 1e-3


def test_block_of_one_layer_of_a_relu_network_is_gauss_newton() -> None:
    """Piecewise linear in one layer's weights: the network has no curvature of its own there."""
    model = chain(4, 6, 5, 3)
    batch = batch_for(model, 6)
    v = torch.randn(24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    products = [make(model, cross_entropy, batch, ["0.weight"])(v) for make in (hessian_product, gauss_newton_product)]
    torch.testing.assert_close(*products)


@pytest.mark.parametrize("matrix", ["hessian", "gauss-newton"])
def test_top_eigenspace(matrix) -> None:
    space = top_eigenspace(MODEL, cross_entropy, BATCH, NAMES, 3, matrix)
    values, vectors = torch.linalg.eigh(HESSIAN if matrix == "hessian" else gauss_newton())
    torch.testing.assert_close(space.values, values.flip(0)[:3], rtol=1e-4, atol=0)
    v = torch.randn(len(POINT), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = [float((vectors.flip(1)[:, :k].T @ v).norm() / v.norm()) for k in (1, 2, 3)]
    assert space.overlaps(v).tolist() == pytest.approx(expected, rel=1e-3)


def test_a_loss_without_curvature_has_products_0() -> None:
    """Where the loss does not depend on a parameter, its products are 0."""
    model = chain(4, 3)
    batch = batch_for(model, 5)
    v = torch.ones(12, dtype=torch.float64)
    constant = hessian_product(model, lambda outputs, _: 0 * outputs.sum(1), batch, ["0.weight"])(v)
    assert constant.abs().max() == 0


def test_more_than_there_are_is_all() -> None:
    space = top_eigenspace(MODEL, cross_entropy, BATCH, ["2.weight"], 99, "hessian")
    assert space.vectors.shape == (15, 15)
