"""How many digits the directional derivative keeps where the network is computed in bfloat16 or float16.

    python benchmarks/precision.py --methods activation-perturbation,wt,wperp:solver=shared
    python benchmarks/precision.py --methods activation-perturbation,wt:tangents=4 --epochs 100

‖δ - δ'‖ / ‖δ'‖ over a batch of 512, width 512, three hidden layers, for two δ', both in float64, by reverse mode, along
the guesses that were drawn:

arithmetic  the derivative where the pass was: each activation's slope at the input that it really had, and the loss's
            gradient at the outputs that it really had. What is left is the error that δ's own products and sums make.
float64     the derivative of the network computed in float64: the pass itself is elsewhere, and its slopes are others.

Beside them the same of backpropagation in that precision: its gradient at each site times the same guesses. And, once
for all methods, how far backpropagation's gradient of all parameters is from that in float64.
"""

import argparse
import copy
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import torch
import torch.autograd.forward_ad as forward_ad
from step_time import BATCH, CLASSES, INPUTS, cross_entropy, estimator
from torch import Tensor, nn

from fgcli.data.mnist1d import mnist1d
from fgcli.data.options import Mnist1dOptions
from fgcli.diagnostics.gradients import parameter_gradients, site_gradients
from fgcli.gradient.draws import joined
from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.estimator import Batch, Loss
from fgcli.gradient.look import look
from fgcli.gradient.precision import full_precision, wide
from fgcli.gradient.randomness import Streams
from fgcli.models.mlp import mlp
from fgcli.models.options import MLPOptions

DTYPES = (torch.bfloat16, torch.float16)


def in_float32(outputs: Tensor, targets: Tensor) -> Tensor:
    with full_precision(outputs):
        return cross_entropy(wide(outputs), targets)


def in_low_precision(outputs: Tensor, targets: Tensor) -> Tensor:
    with full_precision(outputs):
        return cross_entropy(outputs, targets)


def start(activation: Any) -> tuple[nn.Module, Batch]:
    """The network as initialised, and a batch of noise."""
    generator = torch.Generator().manual_seed(0)
    model = mlp(MLPOptions(width=512, activation=activation), (INPUTS,), CLASSES, generator)
    inputs = torch.randn(BATCH, INPUTS, generator=generator)
    return model, Batch(inputs, torch.randint(CLASSES, (BATCH,), generator=generator))


def trained(activation: Any, epochs: int) -> tuple[nn.Module, Batch]:
    """Trained by backpropagation on MNIST-1D as the paper does, and the first samples of it."""
    data = mnist1d(Mnist1dOptions())
    model, generator = start(activation)[0], torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for _ in range(epochs):
        for rows in torch.randperm(len(data.train_inputs), generator=generator).split(BATCH):
            optimizer.zero_grad()
            cross_entropy(model(data.train_inputs[rows]), data.train_targets[rows]).mean().backward()
            optimizer.step()
    return model, Batch(data.train_inputs[:BATCH], data.train_targets[:BATCH])


def errors(name: str, model: nn.Module, batch: Batch, dtype: torch.dtype, loss: Loss) -> list[float]:
    """Of δ, then of backpropagation: arithmetic, float64."""
    method = estimator(name)
    assert isinstance(method, GuessEstimator)
    sites = method.bind(model, batch.inputs[:2]).sites
    network = look(model, batch.inputs[:2])
    outputs: dict[str, Tensor] = {}

    def record(site: str, *call: Any) -> None:
        outputs[site] = forward_ad.unpack_dual(call[2]).primal[: batch.size].double()  # the first tangent's rows

    with hooks(_modules(model, sites), record), torch.autocast("cpu", dtype):
        step, found = method.dual_pass(model, loss, batch, Streams(0).at(0))
    guesses = {site: joined(draws).all().double() for site, draws in step.draws.items()}

    def pin(site: str, *call: Any) -> Tensor:
        """The value of the pass, with the gradient of this one."""
        return call[2] + (outputs[site] - call[2]).detach()

    def along(model: nn.Module, batch: Batch, loss: Loss = cross_entropy) -> Tensor:
        """Σ_i ⟨g_i, y_i⟩ [batch, K] by reverse mode."""
        gradients = site_gradients(model, network, loss, batch)
        terms = [torch.einsum("kbd,bd->bk", guesses[site], gradients[site].double()) for site in sites]
        return torch.stack(terms).sum(0)

    in_double, wide_batch = copy.deepcopy(model).double(), Batch(batch.inputs.double(), batch.targets)
    with hooks(_modules(in_double, sites), pin):
        where_it_was = along(in_double, wide_batch)
    expected = along(in_double, wide_batch)
    with torch.autocast("cpu", dtype):
        reverse = along(model, batch, loss)
    return [relative(one, true) for one in (found.delta, reverse) for true in (where_it_was, expected)]


@contextmanager
def hooks(modules: dict[str, nn.Module], hook: Callable[..., Any]) -> Iterator[None]:
    """`hook(name, module, arguments, output)` runs after each module's forward, and may give another output."""
    handles = [module.register_forward_hook(partial(hook, name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _modules(model: nn.Module, sites: tuple[str, ...]) -> dict[str, nn.Module]:
    return {site: model.get_submodule(site) for site in sites}


def backpropagation(model: nn.Module, batch: Batch, dtype: torch.dtype) -> float:
    """Error of the gradient of all parameters."""
    with torch.autocast("cpu", dtype):
        found = parameter_gradients(model, in_float32, batch)
    wide_batch = Batch(batch.inputs.double(), batch.targets)
    true = parameter_gradients(copy.deepcopy(model).double(), cross_entropy, wide_batch)
    return relative(
        torch.cat([found[name].flatten() for name in true]), torch.cat([g.flatten() for g in true.values()])
    )


def relative(found: Tensor, true: Tensor) -> float:
    return float((found.double() - true).norm() / true.norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", type=lambda text: text.split(","), required=True)
    parser.add_argument("--activation", default="relu")
    parser.add_argument(
        "--epochs", type=int, default=0, help="of backpropagation on MNIST-1D before; 0: none, on noise"
    )
    parser.add_argument("--low-loss", action="store_true", help="the loss, and so δ, in the low precision, too")
    arguments = parser.parse_args()
    model, batch = trained(arguments.activation, arguments.epochs) if arguments.epochs else start(arguments.activation)
    loss = in_low_precision if arguments.low_loss else in_float32
    print("| method | precision | δ: arithmetic | δ: float64 | backprop: arithmetic | backprop: float64 |")
    print("|---|---|---|---|---|---|")
    for name in arguments.methods:
        for dtype in DTYPES:
            cells = " | ".join(f"{error:.4f}" for error in errors(name, model, batch, dtype, loss))
            print(f"| {name} | {str(dtype).removeprefix('torch.')} | {cells} |", flush=True)
    whole = [f"{backpropagation(model, batch, dtype):.4f} in {str(dtype).removeprefix('torch.')}" for dtype in DTYPES]
    print(f"\nBackpropagation's gradient of all parameters: {', '.join(whole)}")


if __name__ == "__main__":
    main()
