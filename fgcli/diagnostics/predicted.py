"""Moments of what feedback predicts, b, which is no random variable: its spread is that over the samples.

bias         ‖(1/B) Σ_b (b_b - g_b)‖
variance     ‖(1/B) Σ_b (b_b - g_b)∘² - ((1/B) Σ_b (b_b - g_b))∘²‖
mse          (1/B) Σ_b ‖b_b - g_b‖²
cosine       the mean of cos(b_b, g_b) where neither is 0
norm_ratio   √(Σ_b ‖b_b‖² / Σ_b ‖g_b‖²)
"""

import torch
from torch import Tensor

from fgcli.diagnostics.gradients import site_gradients
from fgcli.diagnostics.subject import Subject
from fgcli.gradient.estimator import Batch
from fgcli.gradient.randomness import Streams
from fgcli.spectra.scaling import double


def predictions(subject: Subject, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
    """The gradient g and the prediction b at every site that is guessed, each [samples, d]; b = 0 without feedback."""
    guesses = subject.guesses
    if guesses is None:
        raise TypeError(f"{type(subject.estimator).__name__} estimates no gradient of a site's output")
    gradients = site_gradients(subject.model, guesses.bound, subject.loss, batch, guesses.guessed)
    b = guesses.predicted(subject.model, subject.loss, batch, Streams(0).at(subject.step))
    flat = {name: g.flatten(1) for name, g in gradients.items()}
    return {name: (g, b[name].flatten(1).to(g) if b else torch.zeros_like(g)) for name, g in flat.items()}


def moments_of_prediction(g: Tensor, b: Tensor) -> dict[str, float]:
    """By metric, of g and b [samples, d]; those that have no value are left out."""
    g, b = double(g), double(b)
    error = b - g
    mean = error.mean(0)
    found = {
        "bias": float(mean.norm()),
        "variance": float((error.square().mean(0) - mean.square()).norm()),
        "mse": float(error.square().sum(1).mean()),
    }
    norms = b.norm(dim=1) * g.norm(dim=1)
    if bool((norms > 0).any()):
        found["cosine"] = float(((b * g).sum(1) / norms)[norms > 0].mean())
    if bool(g.any()):
        found["norm_ratio"] = float(b.norm() / g.norm())
    return found
