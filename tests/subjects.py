"""Subjects for the tests of diagnostics: methods at a small network."""

from typing import ClassVar

import torch
from claims import Claim
from networks import cross_entropy
from torch import nn

from fgcli.diagnostics.subject import Subject
from fgcli.gradient.estimator import Batch, Estimator, Loss
from fgcli.gradient.guess import Layer, Needs, SampledGuess
from fgcli.gradient.upstream import UpstreamJacobian


def subject(
    estimator: Estimator, model: nn.Module, batch: Batch, *, loss: Loss = cross_entropy, step: int = 0
) -> Subject:
    return Subject(model, loss, estimator, estimator.bind(model, batch.inputs), step)


def of_claim(claim: Claim, model: nn.Module, batch: Batch) -> Subject:
    return subject(claim.estimator(), model, batch)


class Normalised(SampledGuess):
    """A guess of length 1: not linear in its noise."""

    needs: ClassVar[Needs] = "nothing"

    def sample(
        self, layer: Layer, upstream: UpstreamJacobian, prepared: None, generator: torch.Generator
    ) -> torch.Tensor:
        assert layer.output is not None
        y = torch.randn(layer.output.shape, generator=generator, dtype=torch.float64)
        return y / y.norm(dim=1, keepdim=True)
