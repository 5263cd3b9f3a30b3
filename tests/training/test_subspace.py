from itertools import pairwise

import pytest
import torch
from networks import batch_for, chain, cross_entropy
from tiny_runs import Stopper, go_on, rows, run, untimed, weights

from fgcli.training.subspace import SubspaceUpdates


def take_steps(kind, steps=1, *, every=1, k=3, optimizer=torch.optim.SGD):
    """The updates of a tiny network, the top-k eigenvectors before each, and the updates without projection."""
    model = chain(4, 5, 3)
    batch = batch_for(model, 12)
    made = optimizer(model.parameters(), lr=0.1)
    subspace = None if kind is None else SubspaceUpdates(kind, k, every, model, cross_entropy, batch, made)
    updates, spaces = [], []
    for _ in range(steps):
        before = torch.cat([p.detach().flatten() for p in model.parameters()])
        made.zero_grad()
        cross_entropy(model(batch.inputs), batch.targets).mean().backward()
        made.step()
        updates.append(torch.cat([p.detach().flatten() for p in model.parameters()]) - before)
        if subspace is not None:
            spaces.append(subspace.state()["vectors"])
    return updates, spaces


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_update_is_projected_whatever_the_optimiser(optimizer):
    (plain,), _ = take_steps(None, optimizer=optimizer)
    (dominant,), (vectors,) = take_steps("dominant", optimizer=optimizer)
    (bulk,), _ = take_steps("bulk", optimizer=optimizer)
    torch.testing.assert_close(dominant, vectors @ (vectors.T @ plain))
    torch.testing.assert_close(dominant + bulk, plain)
    assert (vectors.T @ bulk).abs().max() < 1e-12
    assert dominant.norm() > 1e-3
    assert bulk.norm() > 1e-3


def test_subspace_is_the_hessians():
    model = chain(4, 5, 3)
    batch = batch_for(model, 12)
    names = [name for name, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]

    def loss(flat):
        parts = flat.split([shape.numel() for shape in shapes])
        chosen = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        return cross_entropy(torch.func.functional_call(model, chosen, (batch.inputs,)), batch.targets).mean()

    point = torch.cat([p.detach().flatten() for p in model.parameters()])
    _, vectors = torch.linalg.eigh(torch.func.hessian(loss)(point).detach())
    top = vectors.flip(1)[:, :3]
    _, (found,) = take_steps("dominant")
    torch.testing.assert_close(found @ found.T, top @ top.T, rtol=0, atol=1e-6)


def test_subspace_is_computed_anew_every_so_many_updates():
    _, spaces = take_steps("dominant", 5, every=2)
    same = [torch.equal(one, other) for one, other in pairwise(spaces)]
    assert same == [True, False, True, False]


@pytest.mark.parametrize("step", [1, 4, 7])
def test_resumed_run_ends_as_the_uninterrupted_one(tmp_path, step):
    changes = {"method": "backprop", "subspace": "bulk", "subspace_k": 3, "subspace_every": 2}
    whole = run(tmp_path / "whole", **changes)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", Stopper(step), **changes)
    assert untimed(go_on(tmp_path / "stopped")) == untimed(whole)
    assert untimed(rows(tmp_path / "stopped")) == untimed(rows(tmp_path / "whole"))
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")


def test_kind_reaches_the_run(tmp_path):
    losses = {
        kind: run(tmp_path / str(kind), method="backprop", subspace=kind, subspace_k=3)["train_loss"]
        for kind in (None, "dominant", "bulk")
    }
    assert len(set(losses.values())) == 3
