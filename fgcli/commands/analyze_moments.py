"""`fgcli analyze-moments`: bias, variance and covariance of any method. Heavy imports inside the bodies."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fgcli.commands.flags import AsJson, Batches, Epochs, Runs
from fgcli.commands.run_flags import RunFlags, with_run_flags
from fgcli.errors import RunError, UsageError
from fgcli.recipe_keys import section_keys

if TYPE_CHECKING:
    from fgcli.commands.states import State
    from fgcli.diagnostics.moments import LayerMoments
    from fgcli.diagnostics.statistics import Measured
    from fgcli.diagnostics.subject import Subject

SPACES = ("activations", "weights")
FEWEST_DRAWS = 8
SUSPICIOUS = 4  # standard errors
SHOWN = (
    ("bias", "bias"), ("variance", "variance"), ("mse", "MSE"), ("covariance_norm", "‖C - I‖_F"),
    ("covariance_rms", "‖C - I‖_F/d"), ("cosine", "cosine"), ("cosine_squared", "cosine²"),
    ("norm_ratio", "norm ratio"), ("effective_rank", "effective rank"),
    ("prediction_bias", "feedback's bias"), ("prediction_variance", "feedback's variance"),
    ("prediction_cosine", "feedback's cosine"), ("prediction_norm_ratio", "feedback's norm ratio"),
)  # fmt: skip


@with_run_flags(leave_out=("epochs", "keep_checkpoints", *section_keys("method")))
def analyze_moments(
    runs: Runs = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help="A method to look at, such as wt or wperp:k=1,solver=svd (default: the run's own, as it was); "
            "repeatable.",
            metavar="NAME[:KEY=VALUE,…]",
        ),
    ] = None,
    own_trajectory: Annotated[
        bool,
        typer.Option(
            "--own-trajectory",
            help="Look at each method where it went itself: at the runs of that method, or at one trained by it.",
        ),
    ] = False,
    epochs: Epochs = None,
    batches: Batches = 4,
    draws: Annotated[
        int, typer.Option("--draws", help="Draws for Monte Carlo; 0: exact moments alone.", metavar="N")
    ] = 64,
    space: Annotated[
        str,
        typer.Option(
            "--space",
            help="activations: guesses of the gradients of layers' outputs, as in the paper; weights: estimates of the "
            "parameters' gradients, for every estimator, by Monte Carlo.",
            metavar="activations|weights",
        ),
    ] = "activations",
    as_json: AsJson = False,
    *,
    run_flags: RunFlags,
) -> None:
    """Bias, variance, covariance and more of methods at given states of a network, layer by layer.

    Exact where the method is linear in its noise, by Monte Carlo everywhere; where both are known, z says how far the
    draws are from the exact value, in standard errors: beyond ±4 the method is not what its covariance says.
    """
    if space not in SPACES:
        raise UsageError(f"--space is {space}; it must be activations or weights")
    if batches < 1:
        raise UsageError(f"--batches is {batches}; it must be at least 1")
    if draws < FEWEST_DRAWS and not (draws == 0 and space == "activations"):
        least = f"at least {FEWEST_DRAWS}" + (", or 0 for exact moments alone" if space == "activations" else "")
        raise UsageError(f"--draws is {draws}; it must be {least}")
    from fgcli.commands.states import Method, epochs_of, refuse_run_flags, states_of, train_for
    from fgcli.extend.registry import load_registry

    registry, chosen = load_registry(run_flags.plugins), epochs_of(epochs)
    methods = [Method.parse(text) for text in method or []]
    for one in methods:
        one.check(registry)
    if runs:
        refuse_run_flags(run_flags)
        paths = runs
    else:
        trained = methods if own_trajectory else methods[:1]
        out = run_flags.out
        paths = [
            train_for(
                replace(run_flags, out=out / one.label.replace(":", "-") if out and len(trained) > 1 else out),
                chosen,
                registry,
                {"method": one.name, "options": one.options},
            )
            for one in trained
        ] or [train_for(run_flags, chosen, registry)]
    states = [state for path in paths for state in states_of(path, chosen, run_flags, registry)]
    subjects = _subjects(states, methods, own_trajectory, registry)
    found = [(state, label, _measure(state, label, one, batches, draws, space)) for state, label, one in subjects]
    _show(found, to_stderr=as_json)
    if as_json:
        from fgcli.files import to_json

        content = {"schema": 1, "space": space, "batches": batches, "draws": draws}
        print(to_json(content | {"moments": [_described(*one) for one in found]}))


def _subjects(
    states: "list[State]", methods: list[Any], own_trajectory: bool, registry: Any
) -> "list[tuple[State, str, Subject]]":
    """Each method at each state; its own state alone, where that is asked for."""
    from fgcli.commands.states import own_method

    pairs = []
    for state in states:
        recipe = state.assembly.recipe
        of_run = [one for one in methods if one.over(recipe, registry) == recipe]
        if not methods or (own_trajectory and of_run):
            pairs.append((state, of_run[0].label if of_run else recipe.method, own_method(state, registry)))
        elif not own_trajectory:
            for one in methods:
                own = one in of_run
                pairs.append((state, one.label, own_method(state, registry) if own else one.at(state, registry)))
    if own_trajectory and methods:
        missing = [one.label for one in methods if one.label not in {label for _, label, _ in pairs}]
        if missing:
            raise UsageError(f"--own-trajectory: no run was trained by {missing[0]} with these options; give one")
    return pairs


def _measure(
    state: "State", label: str, subject: "Subject", batches: int, draws: int, space: str
) -> "list[LayerMoments]":
    from fgcli.diagnostics.moments import NothingKnown, moments, moments_of_weights
    from fgcli.gradient.errors import GuessFault
    from fgcli.gradient.randomness import Streams

    streams = Streams(state.assembly.streams.generator("analyze-moments", state.step).initial_seed())
    if subject.guesses is None and space != "weights":
        raise UsageError(f"--method {label} guesses no gradient of a layer's output; use --space weights")
    of_space = moments_of_weights if space == "weights" else moments
    try:
        found = of_space(subject, state.batches(batches), draws, streams)
    except NothingKnown as error:
        raise UsageError(f"--method {label}: {error}") from error
    except GuessFault as fault:
        raise RunError(f"method {label} failed at {state.label}: {fault}; `fgcli --debug ...` shows where") from fault
    for layer in found:
        for key, one in [*layer.exact.items(), *layer.monte_carlo.items()]:
            if not math.isfinite(one.mean):
                raise RunError(f"method {label} at {state.label}: {key} of {layer.layer} is {one.mean}, not a number")
    return found


def _show(found: "list[tuple[State, str, list[LayerMoments]]]", *, to_stderr: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(stderr=to_stderr)
    for state, label, layers in found:
        table = Table("layer", "", "exact", "Monte Carlo", "z")
        for layer in layers:
            rows = [(key, title) for key, title in SHOWN if key in layer.exact or key in layer.monte_carlo]
            for number, (key, title) in enumerate(rows):
                z = f"{layer.z[key]:+.1f}" if key in layer.z else ""
                name = Text(layer.layer if number == 0 else "")
                exact, drawn = _number(layer.exact.get(key)), _number(layer.monte_carlo.get(key))
                table.add_row(name, title, exact, drawn, z, end_section=number == len(rows) - 1)
        console.print(Text(f"{label}, at {state.label}"), soft_wrap=True)
        console.print(table)
        for layer in layers:
            for key, z in layer.z.items():
                if abs(z) > SUSPICIOUS:
                    warning = f"{layer.layer}: {key} of the draws is {z:+.1f} standard errors off its exact value"
                    console.print(Text(f"{warning}: the guesses are not what their covariance says"), style="bold red")


def _number(one: "Measured | None") -> str:
    if one is None:
        return ""
    return f"{one.mean:.3g}" if one.error is None else f"{one.mean:.3g} ±{one.error:.1g}"


def _described(state: "State", label: str, layers: "list[LayerMoments]") -> dict[str, Any]:
    def values(measured: "dict[str, Measured]") -> dict[str, Any]:
        return {key: {"mean": one.mean, "standard_error": one.error} for key, one in measured.items()}

    return {
        **state.described(),
        "method": label,
        "layers": [
            {"layer": layer.layer, "exact": values(layer.exact), "monte_carlo": values(layer.monte_carlo), "z": layer.z}
            for layer in layers
        ],
    }
