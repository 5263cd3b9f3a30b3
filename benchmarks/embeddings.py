"""Squared error of the estimate, over the true gradient's, by what the rows of an embedding are perturbed with.

    python benchmarks/embeddings.py --methods wt,wperp --steps 20

BERT and GPT-2 of three layers of width 64 from transformers, with random weights, before and after 60 steps of Adam
on random tokens. The error is the mean over steps of ‖ĝ - g‖², summed over the parameters of a group, over ‖g‖²: of
the tables, and of all other parameters.
"""

import argparse
from typing import Any

import torch
import torch.nn.functional as F
import transformers  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn

from fgcli import ForwardGradient

BATCH, TOKENS, VOCABULARY = 16, 24, 500


def bert() -> tuple[nn.Module, Any, Tensor]:
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=32,
        num_labels=2,
    )
    targets = torch.randint(0, 2, (BATCH,))
    return transformers.BertForSequenceClassification(config), _of_texts, targets


def gpt() -> tuple[nn.Module, Any, Tensor]:
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=64,
        n_layer=3,
        n_head=4,
        n_positions=32,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=False,
    )
    return transformers.GPT2LMHeadModel(config), _of_tokens, torch.randint(0, VOCABULARY, (BATCH, TOKENS))


def _of_texts(outputs: Any, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.logits, targets, reduction="none")


def _of_tokens(outputs: Any, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.logits.transpose(1, 2), targets, reduction="none").mean(1)


def errors(make: Any, method: str, embeddings: str, trained: int, steps: int) -> tuple[float, float]:
    """Of the tables, and of all other parameters; nan for tables that are frozen."""
    torch.manual_seed(0)
    model, loss, targets = make()
    model.eval()
    inputs = {"input_ids": torch.randint(1, VOCABULARY, (BATCH, TOKENS))}
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(trained):
        optimizer.zero_grad()
        loss(model(**inputs), targets).mean().backward()
        optimizer.step()
    model.zero_grad()
    loss(model(**inputs), targets).mean().backward()
    tables = {f"{name}.weight" for name, one in model.named_modules() if isinstance(one, nn.Embedding)}
    true = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    if embeddings == "freeze":
        true = {name: g for name, g in true.items() if name not in tables}
    gradient = ForwardGradient(model, method, memory="store", embeddings=embeddings)
    squared = dict.fromkeys(true, 0.0)
    for _ in range(steps):
        model.zero_grad()
        gradient.step(inputs, targets, loss)
        for name, g in true.items():
            found = model.get_parameter(name).grad
            assert found is not None
            squared[name] += float((found - g).square().sum()) / steps

    def ratio(names: set[str]) -> float:
        return sum(squared[one] for one in names) / sum(float(true[one].square().sum()) for one in names)

    at_tables = tables & true.keys()
    return ratio(at_tables) if at_tables else float("nan"), ratio(true.keys() - tables)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="activation-perturbation,wt,wperp")
    parser.add_argument("--steps", type=int, default=20)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| model | Adam steps | method | embeddings | error of the tables | of all others |\n|---|---|---|---|---|---|"
    )
    for name, make in (("BERT", bert), ("GPT-2", gpt)):
        for trained in (0, 60):
            for method in given.methods.split(","):
                for embeddings in ("guess", "isotropic", "freeze"):
                    of_tables, others = errors(make, method, embeddings, trained, given.steps)
                    cells = [name, str(trained), method, embeddings, f"{of_tables:.2g}", f"{others:.2g}"]
                    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
