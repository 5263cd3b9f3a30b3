"""What each set of coefficients makes of W̃⊥-NS's guess, on trained weights: python benchmarks/coefficient_sets.py

A network of the paper (MNIST-1D, three hidden layers of `--width`, no biases) is trained by backpropagation. Then, at
the two sites below a hidden layer, the covariance C of the guess is held against the projector P of every sample, from
its singular value decomposition: the mean and the largest entry of C - P over the samples whose σ_k and σ_{k+1} differ
by 5 %, as many as the last column says, and the effective rank (tr C)² / tr C² over all. `gram` holds the whole rank
here, so that the coefficients alone are seen. Double precision.
"""

import argparse

import torch
from torch import Tensor

from fgcli.data.mnist1d import mnist1d
from fgcli.data.options import Mnist1dOptions
from fgcli.gradient.engine import GuessEstimator
from fgcli.methods.newton_schulz import newton_schulz
from fgcli.methods.options import NewtonSchulzOptions
from fgcli.models.mlp import mlp
from fgcli.models.options import MLPOptions
from fgcli.spectra.coefficient_sets import NAMES
from fgcli.training.losses import cross_entropy

K, SAMPLES, BATCH = 10, 128, 512


def trained(width: int, epochs: int) -> tuple[torch.nn.Sequential, Tensor]:
    """The network in double precision, and some inputs."""
    data = mnist1d(Mnist1dOptions())
    generator = torch.Generator().manual_seed(0)
    model = mlp(MLPOptions(width=width), (40,), 10, generator)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(data.train_inputs), generator=generator).split(BATCH):
            optimizer.zero_grad()
            cross_entropy(model(data.train_inputs[rows]), data.train_targets[rows]).mean().backward()
            optimizer.step()
    return model.double(), data.train_inputs[:SAMPLES].double()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--width", type=int, default=128)
    arguments.add_argument("--epochs", type=int, default=100)
    given = arguments.parse_args()
    model, inputs = trained(given.width, given.epochs)
    weights = [layer.weight.detach() for layer in model if isinstance(layer, torch.nn.Linear)]
    exact: dict[int, tuple[Tensor, Tensor]] = {}
    print("set site mean||C-P||_F largest|C-P| effective_rank apart")
    for name in NAMES:
        options = NewtonSchulzOptions(k=K, solver="gram", oversampling=given.width, coeffs=name)
        estimator = GuessEstimator(newton_schulz(options))
        estimator.bind(model, inputs[:2])
        maps = list(estimator.linear_maps(model, inputs, 0).values())
        s = inputs
        for site in (0, 1):
            s = (s if site == 0 else s.relu()) @ weights[site].T
            if site not in exact:
                _, values, vectors = torch.linalg.svd(weights[site + 1] * (s > 0).unsqueeze(1), full_matrices=False)
                top = vectors[:, :K]
                exact[site] = top.mT @ top, values[:, K] <= 0.95 * values[:, K - 1]
            projector, apart = exact[site]
            eye = torch.eye(maps[site].noise_dim, dtype=s.dtype).expand(len(s), -1, -1)
            a = maps[site].map(eye)
            c = a @ a.mT
            off = (c - projector).flatten(1)
            rank = c.diagonal(dim1=1, dim2=2).sum(1).square() / c.flatten(1).square().sum(1)
            print(
                f"{name} {site} {float(off[apart].norm(dim=1).mean()):.2g} {float(off[apart].abs().max()):.2g} "
                f"{float(rank.mean()):.3g} {int(apart.sum())}/{len(apart)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
