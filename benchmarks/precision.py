"""How many digits the directional derivative keeps where the network is computed in bfloat16 or float16.

    python benchmarks/precision.py --methods activation-perturbation,wt,wperp:solver=shared

‖δ - δ'‖ / ‖δ'‖ over a batch of 512, width 512, three hidden layers: δ as computed, δ' the sum of the inner products of
the guesses drawn with the true gradient in float64. In the last two columns the loss, and so δ, is in the low
precision, too.
"""

import argparse
import copy
import os
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import torch
from step_time import BATCH, CLASSES, INPUTS, cross_entropy, estimator
from torch import Tensor

from fgcli.diagnostics.gradients import site_gradients
from fgcli.gradient.estimator import Batch, Loss
from fgcli.gradient.forward_gradient import ForwardGradient
from fgcli.gradient.precision import full_precision, wide
from fgcli.gradient.randomness import Streams
from fgcli.models.mlp import mlp
from fgcli.models.options import MLPOptions


def in_float32(outputs: Tensor, targets: Tensor) -> Tensor:
    with full_precision(outputs):
        return cross_entropy(wide(outputs), targets)


def in_low_precision(outputs: Tensor, targets: Tensor) -> Tensor:
    with full_precision(outputs):
        return cross_entropy(outputs, targets)


def error(name: str, activation: Any, dtype: torch.dtype, loss: Loss) -> float:
    """Relative to the norm of δ'."""
    generator = torch.Generator().manual_seed(0)
    model = mlp(MLPOptions(width=512, activation=activation), (INPUTS,), CLASSES, generator)
    inputs = torch.randn(BATCH, INPUTS, generator=generator)
    batch = Batch(inputs, torch.randint(CLASSES, (BATCH,), generator=generator))
    method = estimator(name)
    assert isinstance(method, ForwardGradient)
    method.bind(model, inputs[:2])
    with torch.autocast("cpu", dtype):
        drawn = method.dual_pass(model, loss, batch, Streams(0).at(0))
    wide_batch = Batch(inputs.double(), batch.targets)
    true = site_gradients(copy.deepcopy(model).double(), cross_entropy, wide_batch, tuple(drawn.guesses))
    terms = [(g * drawn.guesses[site].double()).sum(1) for site, g in true.items()]
    expected = torch.stack(terms).sum(0)
    return float((drawn.directional_derivative[:, 0].double() - expected).norm() / expected.norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", type=lambda text: text.split(","), required=True)
    parser.add_argument("--activation", default="relu")
    arguments = parser.parse_args()
    print("| method | bfloat16 | float16 | bfloat16, the loss too | float16, the loss too |\n|---|---|---|---|---|")
    for name in arguments.methods:
        cells = [
            f"{error(name, arguments.activation, dtype, loss):.4f}"
            for loss in (in_float32, in_low_precision)
            for dtype in (torch.bfloat16, torch.float16)
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
