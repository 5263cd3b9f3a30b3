"""gpt-tiny: what a token sees, and what stands behind the end of a text."""

from typing import Any

import torch

from fgcli.models.gpt import GPT
from fgcli.models.options import GPTOptions


def made(**options: Any) -> GPT:
    torch.manual_seed(0)
    given = GPTOptions(width=16, depth=2, heads=2, **options)
    return GPT(given, (6,), 4, torch.Generator().manual_seed(0))


def test_a_token_sees_those_before_it_alone() -> None:
    model = made()
    tokens = torch.tensor([[1, 2, 3, 4, 5, 6]])
    other = tokens.clone()
    other[0, 3] = 9
    first, second = model(tokens), model(other)
    assert torch.equal(first[:, :3], second[:, :3])
    assert not torch.allclose(first[:, 3:], second[:, 3:])
    assert first.shape == (1, 6, 4)


def test_a_class_is_that_of_the_text_up_to_its_end() -> None:
    model = made(predicts="class")
    long, short = torch.tensor([[7, 8, -1, -1, -1, -1]]), torch.tensor([[7, 8, 9, -1, -1, -1]])
    assert model(long).shape == (1, 4)
    assert not torch.allclose(model(long), model(short))
    x = model.norm(model.blocks(model.embed(long.clamp(min=0)) + model.positions))
    torch.testing.assert_close(model(long), model.output(x[:, :2].mean(1)))
