"""`fgcli analyze-overlap`: how much of the true gradient lies in small subspaces. Heavy imports inside the bodies."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from fgcli.commands.flags import AsJson, Batches, Epochs, Runs
from fgcli.commands.run_flags import RunFlags, with_run_flags
from fgcli.errors import UsageError, unknown
from fgcli.report.figure_file import check_figure, library_defaults, plain_text, save_figure

if TYPE_CHECKING:
    from fgcli.commands.states import State
    from fgcli.diagnostics.overlap import LayerOverlap, SampleBasis, WeightBasis

BASES = ("upstream", "shared", "hessian", "gauss-newton", "random")
OF_WEIGHTS = ("hessian", "gauss-newton")
EIGENVECTORS = 10  # of the Hessian, where --max-k does not say


@with_run_flags(leave_out=("epochs", "keep_checkpoints"))
def analyze_overlap(
    runs: Runs = None,
    basis: Annotated[
        list[str] | None,
        typer.Option(
            "--basis",
            help="upstream (top right singular vectors of each sample's upstream Jacobian; the default), shared (those "
            "of the next weight matrix, masked), hessian or gauss-newton (top eigenvectors in weights), random (the "
            "control); repeatable.",
            metavar="NAME",
        ),
    ] = None,
    epochs: Epochs = None,
    batches: Batches = 4,
    max_k: Annotated[
        int | None,
        typer.Option("--max-k", help="Largest k (default the rank; 10 for hessian, gauss-newton).", metavar="N"),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw the curves into this .png, .svg or .pdf file.", metavar="FILE")
    ] = None,
    as_json: AsJson = False,
    *,
    run_flags: RunFlags,
) -> None:
    """Overlap of the true gradient with the top-k subspace of each layer, for every k.

    Of runs that were trained, finished or not, or of one that is trained first, by the flags of train.
    """
    bases = basis or ["upstream"]
    for name in bases:
        if name not in BASES:
            raise unknown("kind of basis", name, BASES, where="--basis")
    for flag, value in (("--batches", batches), ("--max-k", max_k)):
        if value is not None and value < 1:
            raise UsageError(f"{flag} is {value}; it must be at least 1")
    if plot is not None:
        check_figure(plot)
    from fgcli.commands.states import epochs_of, refuse_run_flags, states_of, train_for
    from fgcli.extend.registry import load_registry

    registry, chosen = load_registry(run_flags.plugins), epochs_of(epochs)
    if runs:
        refuse_run_flags(run_flags)
    paths = runs or [train_for(run_flags, chosen, registry)]
    states = [state for path in paths for state in states_of(path, chosen, run_flags, registry)]
    found = [(state, name, _measure(state, name, batches, max_k)) for state in states for name in bases]
    _show(found, to_stderr=as_json)
    if plot is not None:
        _draw(found, plot)
        print(f"figure written to {plot}", file=sys.stderr if as_json else sys.stdout)
    if as_json:
        from fgcli.files import to_json

        print(to_json({"schema": 1, "batches": batches, "overlaps": [_described(*one) for one in found]}))


def _measure(state: "State", basis: str, batches: int, max_k: int | None) -> "list[LayerOverlap]":
    from fgcli.diagnostics.overlap import averaged, sample_overlaps, upstream_jacobians, weight_overlaps
    from fgcli.gradient.errors import ModelRefused
    from fgcli.gradient.look import look

    model, loss, data = state.assembly.model, state.assembly.objective.loss, state.batches(batches)
    if basis in OF_WEIGHTS:
        parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        _refuse_above(max_k, parameters, "the number of parameters")
        k = max_k or EIGENVECTORS
        matrix = cast("WeightBasis", basis)
        return averaged([weight_overlaps(model, loss, batch, matrix, k) for batch in data])
    some = data[0].rows(slice(1)).inputs
    try:
        ranks = [min(one.weight.shape) for one in upstream_jacobians(model, look(model, some), some).values()]
    except ModelRefused as refusal:
        raise UsageError(f"--basis {basis}: {refusal}") from refusal
    _refuse_above(max_k, max(ranks, default=0), "the largest rank of an upstream Jacobian")
    found = [
        sample_overlaps(model, loss, batch, cast("SampleBasis", basis), state.assembly.streams.at(number))
        for number, batch in enumerate(data)
    ]
    return averaged([{name: one.up_to(max_k) for name, one in layers.items()} for layers in found])


def _refuse_above(max_k: int | None, largest: int, what: str) -> None:
    if max_k is not None and max_k > largest:
        raise UsageError(f"--max-k is {max_k}; it must be at most {largest}, {what}")


def _show(found: "list[tuple[State, str, list[LayerOverlap]]]", *, to_stderr: bool) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    from fgcli.diagnostics.overlap import marks
    from fgcli.report.sparkline import sparkline

    console = Console(stderr=to_stderr)
    for state, basis, layers in found:
        random = basis == "random" and bool(layers)
        table = Table("k", *(escape(layer.layer) for layer in layers), *(["√(k/d)"] if random else []))
        for k in marks(max((len(layer.overlap) for layer in layers), default=0)):
            expected = [f"{(k / layers[0].dimension) ** 0.5:.3f}"] if random else []
            table.add_row(str(k), *(_cell(layer.overlap, k) for layer in layers), *expected)
        table.add_section()
        table.add_row("1 …", *(sparkline([one.mean for one in layer.overlap], width=12) for layer in layers))
        console.print(Text(f"overlap with basis {basis}, {state.label}"), soft_wrap=True)
        console.print(table)
        if random:
            note = "√(k/d) is the root of the mean squared overlap; the mean lies below it, most of all at k = 1"
            console.print(Text(note), soft_wrap=True)
        for layer in layers:
            if layer.left_out:
                console.print(Text(f"{layer.layer}: {layer.left_out} samples left out, their gradient is 0"))


def _cell(curve: Any, k: int) -> str:
    if k > len(curve):
        return ""
    one = curve[k - 1]
    return f"{one.mean:.3f}" if one.error is None else f"{one.mean:.3f} ±{one.error:.3f}"


def _described(state: "State", basis: str, layers: "list[LayerOverlap]") -> dict[str, Any]:
    def curve(measured: Any) -> dict[str, Any]:
        return {"mean": [one.mean for one in measured], "standard_error": [one.error for one in measured]}

    return {
        **state.described(),
        "basis": basis,
        "layers": [
            {
                "layer": layer.layer,
                "dimension": layer.dimension,
                "left_out": layer.left_out,
                "k": list(range(1, len(layer.overlap) + 1)),
                "overlap": curve(layer.overlap),
                "squared": curve(layer.squared),
            }
            for layer in layers
        ],
    }


@library_defaults()
def _draw(found: "list[tuple[State, str, list[LayerOverlap]]]", path: Path) -> None:
    """Fig. 1 of the W̃⊥ paper: a panel for each state and basis, in it a line a layer, its standard error shaded.

    √(k/d), what a random subspace of the layer's d dimensions gives, is dashed.
    """
    from matplotlib.figure import Figure

    bases = len({basis for _, basis, _ in found})
    columns = bases if bases > 1 else min(3, len(found))
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(4 * columns, 3 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    for axis, (state, basis, layers) in zip(axes, found, strict=False):
        for color, layer in enumerate(layers):
            k = range(1, len(layer.overlap) + 1)
            means = [one.mean for one in layer.overlap]
            axis.plot(
                k, means, color=f"C{color}", label=plain_text(layer.layer), marker="." if len(means) < 15 else None
            )
            errors = [one.error or 0.0 for one in layer.overlap]
            low, high = ([m + sign * e for m, e in zip(means, errors, strict=True)] for sign in (-1, 1))
            axis.fill_between(k, low, high, color=f"C{color}", alpha=0.2, linewidth=0)
        longest = max(layers, key=lambda layer: len(layer.overlap), default=None)
        if longest is not None:
            k = range(1, len(longest.overlap) + 1)
            expected = [(one / longest.dimension) ** 0.5 for one in k]
            axis.plot(k, expected, color="0.5", linestyle="--", linewidth=1, label="random: √(k/d)")
        recipe = state.assembly.recipe
        axis.set_title(plain_text(f"{recipe.method}, width {recipe.width}, epoch {state.epoch:g}: {basis}"))
        axis.title.set_fontsize("small")
        axis.set_xlabel("k")
        axis.set_ylim(0, 1.02)
        axis.legend(fontsize="x-small", loc="lower right")
    for axis in axes[len(found) :]:
        axis.set_visible(False)
    axes[0].set_ylabel("overlap")
    save_figure(figure, path)
