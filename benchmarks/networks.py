"""Networks that others wrote, by every method: which train, whether the estimate is right, and what a step takes.

    python benchmarks/networks.py rows                       # measures what is not in --rows yet, and keeps it there
    python benchmarks/networks.py rows --only 'BERT*'        # measures these anew
    python benchmarks/networks.py memory --only 'BERT*'      # measures what a step of these holds
    python benchmarks/networks.py table                      # networks.md, from the rows

Needs transformers, peft, timm and torch_geometric, none of which fg needs; nothing is downloaded. For each network and
method, with one and with four tangents:

right   in float64 at small sizes and k = 2: what tests/identities.py lists holds, between the estimate and autograd
time    in float32 at a larger size (SIZE, SAMPLES): processor seconds of the first step, which looks the network over,
        and the median of later ones, beside backpropagation's, in turn; with four tangents of one method alone, and not
        of wperp-ns, whose step takes 12 to 22 times that of wt where W̃ is no matrix
"""

import argparse
import fnmatch
import json
import os
import statistics
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "weight-perturbation": ("weight-perturbation", {}),
    "activation-perturbation": ("activation-perturbation", {}),
    "wt": ("wt", {}),
    "wperp": ("wperp", {}),
    "wperp-ns": ("wperp-ns", {}),
    "feedback": ("activation-perturbation", {"feedback": "local"}),
}
HELD: dict[str, tuple[str, dict[str, Any]]] = {
    "backprop": ("backprop", {}),
    "backprop-checkpoint": ("backprop-checkpoint", {}),
    **{label: METHODS[label] for label in METHODS if label != "wperp-ns"},
    "activation-perturbation, replay": ("activation-perturbation", {"memory": "replay"}),
}
"""Whose memory is measured."""
SIZE, SAMPLES = 8, 16
TIMED = (
    "weight-perturbation 1", "activation-perturbation 1", "activation-perturbation 4", "wt 1", "wperp 1",
    "feedback 1",
)  # fmt: skip
ROUNDS, ENOUGH_S = 5, 1.0
FIFTY = 50
"""Updates between two looks at W̃W̃ᵀ: the `refresh` of wperp where W̃ is no matrix."""
LIMIT = 5
"""Times backpropagation's step that the default method is meant to take at most."""
TOLERANCE = 1e-3
"""Relative: parts of some networks are in float32 in any case."""
DEVICE = "One thread of an AMD EPYC (a virtual machine that others used, too), processor time; {versions}."
PACKAGES = ("torch", "transformers", "peft", "timm", "torch_geometric")


def options_of(label: str, tangents: int) -> tuple[str, dict[str, Any]]:
    method, options = METHODS[label][0], dict(METHODS[label][1])
    if tangents > 1:
        options["tangents"] = tangents
        if label == "feedback":
            options["correction"] = 1.0  # else the estimate has no tangents
    return method, options


def right(name: str, label: str, tangents: int) -> float:
    """The largest relative error of the identities, at the small size in float64."""
    import identities  # pyright: ignore[reportMissingImports]
    import torch

    from fgcli import ForwardGradient
    from fgcli.gradient.estimator import Batch

    network = networks()[name]
    torch.manual_seed(0)
    model = network.model().double()
    inputs = doubled(network.inputs(3, 1))
    with torch.no_grad():
        batch = Batch(inputs, network.targets(identities.call(model, inputs)))
    method, options = options_of(label, tangents)
    if label == "feedback":
        options["feedback_learning"] = "none"
    elif label.startswith("wperp"):
        options["k"] = 2  # the networks are small
    estimator: Any = ForwardGradient(model, method, **options)._estimator
    estimator.bind(model, inputs)
    if label == "weight-perturbation":
        model.train(tangents == 1)  # of several, torch.func's Dropout draws other numbers than autograd's
        return identities.of_weight_perturbation(estimator, model, network.loss, batch)
    if label == "feedback":
        return identities.of_feedback(estimator, model, network.loss, batch)
    error = identities.of_estimate(estimator, model, network.loss, batch)
    if label == "wt" and tangents == 1:
        error = max(error, identities.of_upstream(model, network.loss, batch, estimator.bound))
    return error


def timed(name: str) -> dict[str, Any]:
    """Seconds of first and later steps of each method, and of backpropagation."""
    import torch

    from fgcli import ForwardGradient
    from fgcli.gradient.uses import call

    network = networks()[name]
    torch.manual_seed(0)
    model = network.model(SIZE)
    inputs = network.inputs(SAMPLES, SIZE)
    y = network.targets(call(model, inputs))

    def backward() -> None:
        network.loss(call(model, inputs), y).backward()

    found: dict[str, Any] = {}
    steps, estimators = {}, {}
    for key in TIMED:
        label, _, tangents = key.rpartition(" ")
        method, options = options_of(label, int(tangents))
        gradient = ForwardGradient(model, method, **options)
        begun = time.process_time()
        try:
            loss = gradient.step(inputs, y, network.loss)
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            if not all(bool(one.isfinite().all()) for one in [loss, *gradients]):
                raise FloatingPointError("the estimate is not finite")
        except Exception as error:
            found[key] = {"refused": f"{type(error).__name__}: {error}"}
            continue
        found[key] = {"first": time.process_time() - begun}
        gradient.step(inputs, y, network.loss)  # not measured: wperp looks at W̃W̃ᵀ once more
        if label == "wperp":
            estimators[key] = gradient
        steps[key] = lambda gradient=gradient: gradient.step(inputs, y, network.loss)
    times: dict[str, list[float]] = {"backprop": [], **{key: [] for key in steps}}
    backward()
    for _ in range(ROUNDS):
        for key, step in {"backprop": backward, **steps}.items():
            if sum(times[key]) > ENOUGH_S:
                continue
            begun = time.process_time()
            step()
            times[key].append(time.process_time() - begun)
    for key, some in times.items():
        found.setdefault(key, {})["later"] = statistics.median(some)
    for key, gradient in estimators.items():
        gradient.steps = FIFTY
        begun = time.process_time()
        gradient.step(inputs, y, network.loss)
        found[key]["fiftieth"] = time.process_time() - begun
    found["parameters"] = sum(p.numel() for p in model.parameters())
    return found


def peaks(name: str) -> dict[str, int]:
    """Bytes of tensors that a step of each method holds at its peak beyond what was there, its gradients included."""
    import torch

    from fgcli import ForwardGradient
    from fgcli.bench.measure import peak_of
    from fgcli.gradient.uses import call

    network = networks()[name]
    torch.manual_seed(0)
    model, device = network.model(SIZE), torch.device("cpu")
    inputs = network.inputs(SAMPLES, SIZE)
    with torch.no_grad():
        y = network.targets(call(model, inputs))
    found = {}
    for label, (method, options) in HELD.items():
        gradient = ForwardGradient(model, method, **options)

        def step(gradient: Any = gradient) -> None:
            model.zero_grad()
            gradient.step(inputs, y, network.loss)

        step()
        step()  # which takes up what the first one found
        found[label] = peak_of(step, device)
        if label == "wperp":
            found["kept by wperp"] = sum(one.nbytes for one in gradient.state_dict()["kept"].values())
    return found


def doubled(inputs: Any) -> Any:
    from fgcli.gradient.nested import mapped

    return mapped(lambda v: v.double() if hasattr(v, "dtype") and v.is_floating_point() else v, inputs)


def networks() -> dict[str, Any]:
    import public_networks  # pyright: ignore[reportMissingImports]
    import torch_networks  # pyright: ignore[reportMissingImports]

    assert torch_networks.nodes is not None
    return public_networks.NETWORKS


def row(name: str) -> dict[str, Any]:
    """All of one network."""
    warnings.simplefilter("ignore")
    missing = networks()[name].missing
    if missing:
        return {"failed": f"{missing} is not installed"}
    checked: dict[str, Any] = {}
    for label in METHODS:
        for tangents in (1, 4):
            try:
                checked[f"{label} {tangents}"] = right(name, label, tangents)
            except Exception as error:
                checked[f"{label} {tangents}"] = f"{type(error).__name__}: {error}"
    return {"right": checked, "timed": timed(name)}


def measure(what: str, only: str, rows: Path) -> None:
    known = json.loads(rows.read_text()) if rows.exists() else {}
    for name in networks():
        if not fnmatch.fnmatch(name, only) or (only == "*" and name in known):
            continue
        try:
            known[name] = row(name) if what == "rows" else known[name] | {"held": peaks(name)}
        except Exception as error:
            known[name] = {"failed": f"{type(error).__name__}: {error}"}
        rows.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n")
        print(name, summary(known[name]), flush=True)


def cell(one: dict[str, Any], label: str) -> tuple[str, str]:
    """The ratio of step times to backpropagation, of one and, if timed, of four tangents; else why there is none."""
    parts = []
    for key in (f"{label} 1", f"{label} 4"):
        checked, timed = one["right"][key], one["timed"].get(key, {})
        if isinstance(checked, str):
            return "–", checked
        if checked > TOLERANCE:
            return "✗", f"wrong: {checked:.1e} off"
        if "refused" in timed:
            return "–", timed["refused"]
        if timed:
            parts.append(f"{timed['later'] / one['timed']['backprop']['later']:.1f}")
    return " / ".join(parts) or "✓", ""


def mean_of_fifty(one: dict[str, Any]) -> float:
    """Of the default method's steps, in backpropagation's."""
    timed = one["timed"]["wperp 1"]
    return ((FIFTY - 1) * timed["later"] + timed["fiftieth"]) / FIFTY / one["timed"]["backprop"]["later"]


def first_s(one: dict[str, Any]) -> float:
    """Seconds of the default method's first step."""
    return one["timed"]["wperp 1"].get("first", 0.0)


def held(rows: dict[str, Any]) -> list[str]:
    """The table of memory."""
    measured = {name: one["held"] for name, one in rows.items() if "held" in one}
    if not measured:
        return []
    columns = [*(label for label in HELD if label != "backprop"), "kept by wperp"]
    lines = []
    for name, of in measured.items():
        ratios = " | ".join(f"{of[label] / of['backprop']:.2f}" for label in columns)
        lines.append(f"| {name} | {of['backprop'] / 2**20:.1f} | {ratios} |")
    return [
        "",
        "## Memory",
        "",
        "Tensors that a step holds at its peak beyond what was there, gradients included, by torch's profiler: in MiB "
        "for backpropagation, then in units of it.",
        f"`wperp` keeps its spaces from step to step (the last column). It holds more when it looks at W̃W̃ᵀ, once in "
        f"{FIFTY}. Where all sites give less than 8 MiB for the batch, `memory=auto` takes it at once, and holds more "
        "than backpropagation, by a few MiB; on the larger networks of [real.md](real.md) it holds less.",
        "",
        f"| network | backpropagation, MiB | {' | '.join(columns)} |",
        f"|{'---|' * (len(columns) + 2)}",
        *lines,
    ]


def table(rows: Path) -> str:
    """The page."""
    known = json.loads(rows.read_text())
    found = {name: known[name] for name in networks() if "right" in known.get(name, {})}
    others = {name: known[name] for name in networks() if name in known and name not in found}
    notes: dict[str, int] = {}
    lines = []
    for name, one in found.items():
        cells = []
        for label in METHODS:
            text, why = cell(one, label)
            if why:
                number = notes.setdefault(why, len(notes) + 1)
                text += f" [{number}]"
            cells.append(text)
        base = one["timed"]["backprop"]["later"]
        head = f"{name}{'°' if one.get('by_clock') else ''} | {one['timed']['parameters']:,} | {1e3 * base:.0f}"
        of_default = (
            "– | –" if "refused" in one["timed"]["wperp 1"] else f"{mean_of_fifty(one):.1f} | {first_s(one):.1f}"
        )
        lines.append(f"| {head} | {' | '.join(cells)} | {of_default} |")
    counts = {label: sum(not cell(one, label)[1] for one in found.values()) for label in METHODS}
    said = ", ".join(f"`{label}` {count}" for label, count in counts.items())
    median = {
        name: one["timed"]["wperp 1"].get("later", 0) / one["timed"]["backprop"]["later"] for name, one in found.items()
    }
    above = [f"{name} ({ratio:.1f})" for name, ratio in median.items() if ratio > LIMIT]
    slow = max((first_s(one), name) for name, one in found.items())
    page = [
        "# Networks that others wrote",
        "",
        "Made by `python benchmarks/networks.py rows` and `table`; the script says what is measured and how.",
        DEVICE.format(versions=", ".join(f"{one} {version(one)}" for one in PACKAGES)),
        "",
        f"Of {len(found)} networks, trained with one and with four tangents, and held to autograd: {said}.",
        "",
        f"`wperp` is the default method of `ForwardGradient`. Its median step takes more than {LIMIT} times "
        f"backpropagation's on {len(above)}{': ' if above else ''}{', '.join(above)}. "
        f"One step in {FIFTY} looks at W̃W̃ᵀ, and takes longer: the mean of {FIFTY} has a column of its own. "
        "The first step looks the network over, and takes "
        f"{slow[0]:.0f} s at most ({slow[1]}).",
        "",
        f"A cell: the median time of a step with one (/ four) tangents, in backpropagation's; batch {SAMPLES}. ✓: not "
        "timed. –: refused, or ✗: wrong, with the reason below. °: by the clock, beside others' work: less sure.",
        "",
        f"| network | parameters | backpropagation, ms | {' | '.join(METHODS)} | wperp, mean of {FIFTY} | first, s |",
        f"|{'---|' * (len(METHODS) + 5)}",
        *lines,
        "",
        *(f"[{number}] {why}  " for why, number in notes.items()),
        *(f"Not measured: {name} ({one})  " for name, one in others.items()),
        *held(found),
    ]
    return "\n".join(page) + "\n"


def summary(one: dict[str, Any]) -> str:
    if "right" not in one:
        return str(one)[-600:]
    found = []
    for label in METHODS:
        text, why = cell(one, label)
        found.append(f"{label}: {text} {why[:300]}")
    return "\n   ".join(["", *found])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["rows", "memory", "table"])
    parser.add_argument("--only", default="*")
    parser.add_argument("--rows", type=Path, default=HERE / "results" / "networks.json")
    arguments = parser.parse_args()
    if arguments.what != "table":
        measure(arguments.what, arguments.only, arguments.rows)
    else:
        (HERE / "networks.md").write_text(table(arguments.rows), encoding="utf-8")


if __name__ == "__main__":
    main()
