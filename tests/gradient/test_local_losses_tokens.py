"""Local losses of a model that gives logits for each token."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from bases import summed_over_a_basis
from torch import Tensor

from fgcli.errors import UsageError
from fgcli.extend.options import Options
from fgcli.gradient.estimator import Batch
from fgcli.gradient.local_losses import LocalLosses
from fgcli.gradient.randomness import Streams
from fgcli.methods.backprop import Backprop
from fgcli.models.gpt import GPT
from fgcli.models.local_heads import with_local_losses
from fgcli.models.options import GPTOptions

RNG = Streams(3).at(7)
WIDTH, LENGTH, CLASSES = 8, 5, 3
TWO = torch.zeros(2, LENGTH).long()


def token_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Of each sample, the mean over its tokens [batch]."""
    return F.cross_entropy(outputs.movedim(-1, 1), targets, reduction="none").mean(1)


def gpt() -> GPT:
    generator = torch.Generator().manual_seed(0)
    return GPT(GPTOptions(width=WIDTH, depth=2, heads=2, vocabulary=7), (LENGTH,), CLASSES, generator)


def case(head: str = "projection", groups: int = 1) -> tuple[LocalLosses, Batch]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(7, (3, LENGTH), generator=generator)
    model = with_local_losses(gpt(), 1, head, groups, tokens[:2], CLASSES, generator).double()
    return model, Batch(tokens, torch.randint(CLASSES, (3, LENGTH), generator=generator))


@pytest.mark.parametrize(("head", "groups"), [("projection", 1), ("group", 2)])
def test_each_block_is_trained_by_the_loss_of_its_own_heads_logits_at_every_token(head: str, groups: int) -> None:
    model, batch = case(head, groups)
    found = Backprop(Options()).estimate(model, model.loss_of(token_loss), batch, RNG).gradients
    plain: Any = model.plain
    x = plain.embed(batch.inputs) + plain.positions
    for number, block in enumerate(plain.blocks):
        x = block(x)
        of_head: Any = model.heads[f"blocks.{number}"]
        weight = of_head.weight.view(groups, CLASSES, -1).movedim(0, 1).flatten(1)  # [classes, width]
        loss = token_loss(x @ weight.T, batch.targets).mean()
        trained = {f"blocks.{number}.{name}": one for name, one in block.named_parameters()}
        trained |= {"embed.weight": plain.embed.weight} if number == 0 else {}
        for name, one in trained.items():
            torch.testing.assert_close(found[name], torch.autograd.grad(loss, one, retain_graph=True)[0])
        (expected,) = torch.autograd.grad(loss, of_head.weight)
        torch.testing.assert_close(found[f"local_heads.blocks-{number}.weight"], expected)
        x = x.detach()
    loss = token_loss(plain.output(plain.norm(x)), batch.targets).mean()
    torch.testing.assert_close(found["output.weight"], torch.autograd.grad(loss, plain.output.weight)[0])


@pytest.mark.parametrize(("head", "groups"), [("projection", 1), ("group", 2)])
def test_the_sum_over_a_basis_of_a_sites_tangents_is_its_exact_gradient(head: str, groups: int) -> None:
    model, batch = case(head, groups)
    for parameter in model.plain.parameters():
        parameter.requires_grad_(parameter.dim() > 1)  # a normalisation's scale would be perturbed beside it
    found, exact_gradient = summed_over_a_basis(model, model.loss_of(token_loss), batch, last_layer(model, "blocks.1"))
    torch.testing.assert_close(found, exact_gradient)


def last_layer(model: LocalLosses, block: str) -> str:
    """The last Linear of a block, behind which lies its head alone."""
    return [name for name, one in model.plain.named_modules() if name.startswith(block) and hasattr(one, "weight")][-1]


class Twisted(torch.nn.Module):
    """Logits [batch, length, classes] of tokens; layers that give another shape, or channels first."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.flat = torch.nn.Embedding(7, WIDTH), torch.nn.Flatten()
        self.conv = torch.nn.Conv1d(WIDTH, LENGTH, 3, padding=1)
        self.output = torch.nn.Linear(WIDTH, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        x = x + self.conv(x.mT).sum(2, keepdim=True)
        return self.output(self.flat(x).view(x.shape))


@pytest.mark.parametrize("name", ["flat", "conv"])
def test_a_head_at_what_is_no_layer_of_tokens_is_refused(name: str) -> None:
    line = rf"names {name}, which gives .* for 2 samples; a head takes \[2, 5, width\], since the model gives"
    with pytest.raises(UsageError, match=line):
        with_local_losses(Twisted(), name, "projection", 1, TWO, CLASSES, torch.Generator())


def test_a_classifier_of_texts_is_refused() -> None:
    options = GPTOptions(width=WIDTH, heads=2, predicts="class")
    model = GPT(options, (LENGTH,), CLASSES, torch.Generator())
    with pytest.raises(
        UsageError, match=r"takes a model that gives \[batch, 5, 3\], of each token, .* behind a text's end"
    ):
        with_local_losses(model, 1, "projection", 1, TWO, CLASSES, torch.Generator())
