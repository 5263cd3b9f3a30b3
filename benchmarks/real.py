"""Step time and memory of each method on networks that others wrote, each in a fresh process.

    python benchmarks/real.py                          # writes real.md beside it
    python benchmarks/real.py --networks BERT --methods backprop,wt

Needs transformers, timm and peft, none of which fg needs; nothing is downloaded. Weights are random, as time and memory
do not ask for others. In MiB:

tensors    the most that a step holds beyond what it found, gradients included, after two steps (for fg's methods: of
           the first step as well, which looks the network over)
process    the most that is resident in the process, beyond what is when the model and the batch are there
kept       what the method keeps from step to step
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))
MIB = 2**20
SAMPLES = 16
METHODS = {
    "backprop": ("backprop", {}),
    "backprop-checkpoint": ("backprop-checkpoint", {}),
    "spsa": ("spsa", {}),
    "weight-perturbation": ("weight-perturbation", {}),
    "activation-perturbation": ("activation-perturbation", {}),
    "wt": ("wt", {}),
    "wperp": ("wperp", {}),
    "wperp-ns": ("wperp-ns", {}),
    "feedback local": ("activation-perturbation", {"feedback": "local"}),
    "feedback direct": ("activation-perturbation", {"feedback": "direct"}),
    "activation-perturbation, store": ("activation-perturbation", {"memory": "store"}),
    "wt, store": ("wt", {"memory": "store"}),
    "feedback local, store": ("activation-perturbation", {"feedback": "local", "memory": "store"}),
    "activation-perturbation, replay": ("activation-perturbation", {"memory": "replay"}),
    "wt, replay": ("wt", {"memory": "replay"}),
}
"""By their names here: a method and its options, by default with memory=auto. `inference` is beside them."""
STEPS, ENOUGH_S = 5, 6.0


def made(name: str) -> tuple[Any, Any, Any]:
    """Model, inputs and targets of a network."""
    import torch

    name, _, form = name.partition(", ")
    if name in ("BERT", "MiniLM size"):
        import transformers  # pyright: ignore[reportMissingImports]

        width, layers, heads = (128, 4, 2) if name == "BERT" else (384, 6, 12)
        config = transformers.BertConfig(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            vocab_size=30_522,
            num_labels=2,
        )
        model: Any = transformers.BertForSequenceClassification(config)
        ids = torch.randint(1, 30_522, (SAMPLES, 64))
        inputs: Any = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    else:
        from torchvision_stub import torchvision_or_stub  # pyright: ignore[reportMissingImports]

        with torchvision_or_stub():  # timm's models have no use for it
            import timm  # pyright: ignore[reportMissingImports]

            if name == "ViT-tiny":
                model = timm.create_model("vit_tiny_patch16_224", num_classes=2)
                inputs = torch.randn(SAMPLES, 3, 224, 224)
            else:
                model = timm.create_model("resnet18", num_classes=2, norm_layer="groupnorm")
                inputs = torch.randn(SAMPLES, 3, 96, 96)
    if form == "LoRA":
        from peft import LoraConfig, get_peft_model  # pyright: ignore[reportMissingImports]

        model = get_peft_model(model, LoraConfig(r=8, target_modules=["query", "value", "qkv"]))
    return model.train(), inputs, torch.arange(SAMPLES) % 2


NETWORKS = ("BERT", "BERT, LoRA", "MiniLM size", "MiniLM size, LoRA", "ViT-tiny", "ResNet-GN")


def measured(network: str, label: str) -> dict[str, Any]:
    import torch
    import torch.nn.functional as F

    from fgcli import ForwardGradient
    from fgcli.bench.measure import peak_of
    from fgcli.devices import peak_memory_bytes
    from fgcli.gradient.uses import call

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    (model, inputs, targets), device = made(network), torch.device("cpu")
    gradient = None if label == "inference" else ForwardGradient(model, METHODS[label][0], **METHODS[label][1])

    def loss(outputs: Any, y: Any) -> Any:
        return F.cross_entropy(getattr(outputs, "logits", outputs), y, reduction="none")

    def step() -> None:
        if gradient is None:
            with torch.no_grad():
                call(model, inputs)
            return
        model.zero_grad()
        gradient.step(inputs, targets, loss)

    with open("/proc/self/statm") as statm:
        before = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    begun = time.process_time()
    step()
    first, times = time.process_time() - begun, []
    step()  # wperp looks at W̃W̃ᵀ once more
    while len(times) < STEPS and sum(times) < ENOUGH_S:
        begun = time.process_time()
        step()
        times.append(time.process_time() - begun)
    process = peak_memory_bytes(device) - before
    kept = sum(one.nbytes for one in gradient.state_dict()["kept"].values()) if gradient is not None else 0
    return {
        "first_s": first,
        "step_s": statistics.median(times),
        "tensors": peak_of(step, device) / MIB,
        "process": process / MIB,
        "kept": kept / MIB,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=lambda text: text.split(";"), default=NETWORKS, help="separated by ;")
    parser.add_argument("--methods", type=lambda text: text.split(";"), default=["inference", *METHODS])
    parser.add_argument("--rows", type=Path, default=HERE / "results" / "real.json")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        print(json.dumps(measured(arguments.networks[0], arguments.methods[0])))
        return
    rows = json.loads(arguments.rows.read_text()) if arguments.rows.exists() else {}
    for network in arguments.networks:
        for label in arguments.methods:
            command = [sys.executable, __file__, "--alone", "--networks", network, "--methods", label]
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
            said = (ended.stdout if ended.returncode == 0 else ended.stderr).strip().splitlines() or ["killed"]
            row = json.loads(said[-1]) if ended.returncode == 0 else {"failed": said[-1]}
            rows.setdefault(network, {})[label] = row
            print(network, label, row, flush=True)
            arguments.rows.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))


def table(rows: dict[str, Any]) -> str:
    """The rows as a page has them."""
    lines = [
        "| network | method | first step, s | step, s | tensors | process | kept |",
        "|---|---|---|---|---|---|---|",
    ]
    for network, of in rows.items():
        for label, row in of.items():
            if "failed" in row:
                lines.append(f"| {network} | {label} | {row['failed']} |||||")
                continue
            numbers = f"{row['first_s']:.1f} | {row['step_s']:.2f} | {row['tensors']:.1f} | {row['process']:.0f}"
            lines.append(f"| {network} | {label} | {numbers} | {row['kept']:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
