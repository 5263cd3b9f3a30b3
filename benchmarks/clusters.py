"""A task of as many classes as wanted, of which a linear network learns a part (feedback-classes.yaml)."""

import torch

from fgcli import Dataset

AXES, TRAIN, TEST = 32, 10_000, 2_000
CENTRES = 300


def two() -> Dataset:
    """Two classes."""
    return clusters(2)


def ten() -> Dataset:
    """Ten."""
    return clusters(10)


def hundred() -> Dataset:
    """A hundred."""
    return clusters(100)


def thousand() -> Dataset:
    """A thousand, ten training samples of each."""
    return clusters(1000)


def clusters(classes: int) -> Dataset:
    """Each class is at least three clusters [AXES], about CENTRES in all, around centres drawn at random."""
    parts = max(3, CENTRES // classes)
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(classes, parts, AXES, generator=generator)
    labels = torch.randint(classes, (TRAIN + TEST,), generator=generator)
    chosen = torch.randint(parts, (TRAIN + TEST,), generator=generator)
    inputs = centres[labels, chosen] + 0.5 * torch.randn(TRAIN + TEST, AXES, generator=generator)
    return Dataset(f"clusters-{classes}", inputs[:TRAIN], labels[:TRAIN], inputs[TRAIN:], labels[TRAIN:], classes)
