"""Estimates on networks that others wrote, held to autograd by what must hold of every single one (identities.py)."""

from typing import Any

import identities
import pytest
import torch
import torch_networks
from public_networks import NETWORKS, PublicNetwork
from torch import nn

from fgcli import ForwardGradient
from fgcli.gradient.estimator import Batch
from fgcli.gradient.nested import leaves, mapped
from fgcli.gradient.uses import call

pytestmark = pytest.mark.filterwarnings("ignore")  # of the other packages
TOLERANCE = 1e-4
"""Relative: some of these networks compute parts in float32 whatever their weights are in."""
CHOSEN = (
    "BERT", "BERT, padding mask", "GPT-2, tied", "Llama", "Llama, padding mask", "T5", "ViT (transformers)",
    "DeiT (transformers)", "BERT, LoRA", "GPT-2, LoRA", "ResNet-18, GroupNorm", "ResNet-18, BatchNorm in eval",
    "ConvNeXt", "MLP-Mixer", "MobileNetV3", "Swin", "U-Net", "DCGAN's generator", "LSTM",
    "Grouped and depthwise convolutions", "nn.MultiheadAttention, two masks", "GCN", "einsum and bare parameters",
)  # fmt: skip
assert torch_networks.nodes is not None


def made(name: str, samples: int = 3) -> tuple[PublicNetwork, nn.Module, Batch]:
    """The network in float64 in train mode, its Dropout included, with a batch; skipped without its package."""
    network = NETWORKS[name]
    if network.missing:
        pytest.skip(f"needs {network.missing}, which fg does without")
    torch.manual_seed(0)
    model = network.model().double()
    inputs = mapped(lambda v: v.double() if leaves(v) else v, network.inputs(samples, 1))
    with torch.no_grad():
        return network, model, Batch(inputs, network.targets(call(model, inputs)))


def bound(model: nn.Module, batch: Batch, method: str, **options: Any) -> Any:
    estimator = ForwardGradient(model, method, **options)._estimator
    estimator.bind(model, batch.inputs)
    return estimator


@pytest.mark.parametrize("name", CHOSEN)
def test_estimates_are_those_of_the_network(name: str) -> None:
    network, model, batch = made(name)
    four = bound(model, batch, "activation-perturbation", tangents=4)
    assert identities.of_estimate(four, model, network.loss, batch) < TOLERANCE
    assert identities.of_upstream(model, network.loss, batch, four.bound) < TOLERANCE
    default = bound(model, batch, "wperp", k=2)
    assert identities.of_estimate(default, model, network.loss, batch) < TOLERANCE
    feedback = bound(model, batch, "wt", feedback="local", feedback_learning="none")
    assert identities.of_feedback(feedback, model, network.loss, batch) < TOLERANCE
    corrected = bound(
        model, batch, "activation-perturbation", feedback="local", feedback_learning="none", correction=0.5
    )
    assert identities.of_feedback(corrected, model, network.loss, batch) < TOLERANCE
    weights = bound(model, batch, "weight-perturbation")
    assert identities.of_weight_perturbation(weights, model, network.loss, batch) < TOLERANCE


@pytest.mark.parametrize("memory", ["store", "replay"])
def test_replay_follows_a_transformer_with_dropout(memory: str) -> None:
    network, model, batch = made("BERT, padding mask")
    estimator = bound(model, batch, "wt", tangents=2, memory=memory)
    assert identities.of_estimate(estimator, model, network.loss, batch) < TOLERANCE


@pytest.mark.parametrize("name", ["BERT, masked language model", "GPT-2, tied", "T5"])
def test_a_transformer_is_trained_by_its_own_loss(name: str) -> None:
    _, model, batch = made(name)
    labels = {"labels": batch.targets}
    torch.manual_seed(5)
    expected = model(**batch.inputs, **labels).loss
    torch.manual_seed(5)
    gradient = ForwardGradient(model, "activation-perturbation", tangents=2)
    loss = gradient.step(batch.inputs | labels)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-5, atol=0, check_dtype=False)
    assert gradient.coverage is not None
    assert not gradient.coverage.notes  # samples are told apart
    assert all(p.grad is not None for name, p in model.named_parameters() if name not in gradient.coverage.unused)
