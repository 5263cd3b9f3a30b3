"""Subjects for the tests of diagnostics: methods at a small network."""

import torch
from claims import Claim
from networks import cross_entropy
from torch import nn

from fgcli.diagnostics.subject import Subject
from fgcli.gradient.estimator import Batch, Estimator, Loss


def subject(
    estimator: Estimator, model: nn.Module, batch: Batch, *, loss: Loss = cross_entropy, step: int = 0
) -> Subject:
    return Subject(model, loss, estimator, estimator.bind(model, batch.inputs), step)


def of_claim(claim: Claim, model: nn.Module, batch: Batch) -> Subject:
    return subject(claim.estimator(), model, batch)


class Normalised:
    """A guess of length 1: not linear in its noise."""

    needs = "nothing"

    def prepare(self, site):
        return None

    def sample(self, site, prepared, batch, generator):
        y = torch.randn(batch, *site.shape, generator=generator, dtype=torch.float64)
        return y / y.norm(dim=1, keepdim=True)
