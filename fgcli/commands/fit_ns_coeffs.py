"""`fgcli fit-ns-coeffs`: fit the polynomials of W̃⊥-NS, keep them, show their errors. Heavy imports inside."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fgcli.errors import UsageError
from fgcli.report.figure_file import check_figure, check_file, library_defaults, save_figure

if TYPE_CHECKING:
    from rich.console import Console

    from fgcli.spectra.coefficient_sets import NamedStep
    from fgcli.spectra.coefficients import CoefficientTable, FitOptions, StepFit

LEAST_WIDTH = 80  # columns of the table: in a narrower terminal its lines wrap, where rich would leave cells empty


def fit_ns_coeffs(
    context: typer.Context,
    coefficient_set: Annotated[
        str,
        typer.Option(
            "--set",
            help="`paper`: fitted; `sign-cut`, `muon`, `bjorck-bowie`, `kovarik`, `polar-express`, `cans`: known ones, "
            "shown with their errors. `--option coeffs=NAME` uses them.",
        ),
    ] = "paper",
    degree: Annotated[int, typer.Option(help="Degree of the odd polynomial p: 5, 7 or 9.")] = 7,
    iterations: Annotated[int, typer.Option(help="N, how often p is applied.")] = 5,
    per_iteration: Annotated[
        bool, typer.Option("--per-iteration", help="Fit a polynomial of its own for each application.")
    ] = False,
    sigma: Annotated[
        list[float] | None,
        typer.Option(help="A σ_k to fit, in (0, 1); give it several times for several. Default: 0.1 to 0.9."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the restarts.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the table to this file instead of the user's cache folder.", metavar="FILE"),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw p^N against the step into this .png, .svg or .pdf file.", metavar="FILE")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the table as JSON, and nothing else, to standard output.")
    ] = False,
) -> None:
    """Fit the Newton–Schulz coefficients of W̃⊥-NS, by gradient descent with restarts, or show a known set.

    p(x) = a x + b x³ + c x⁵ + …, applied N times, approximates the step at σ_k. A table fitted before with the same
    options is read instead. wperp-ns uses the last table that this command left in the cache folder, provided it
    has a σ within 0.05 of every σ_k from 0.05 to 0.95; `--option coeffs=FILE` names another.
    """
    from fgcli.spectra.coefficients import PAPER_SIGMAS, FitOptions

    if coefficient_set != "paper":
        sources = {flag: context.get_parameter_source(name) for name, flag in _OF_A_FIT.items()}
        if given := [flag for flag, one in sources.items() if one is not None and one.name == "COMMANDLINE"]:
            raise UsageError(
                f"{given[0]} is of a fit, and the set {coefficient_set!r} is not fitted: leave it out, or use "
                "--set paper"
            )
        show_set(coefficient_set, tuple(sigma) if sigma else PAPER_SIGMAS, iterations, plot=plot, as_json=as_json)
        return
    options = FitOptions(
        degree=degree,
        applications=iterations,
        per_iteration=per_iteration,
        sigmas=tuple(sigma) if sigma else PAPER_SIGMAS,
        seed=seed,
    )
    run(options, out=out, plot=plot, as_json=as_json)


_OF_A_FIT = {"degree": "--degree", "per_iteration": "--per-iteration", "seed": "--seed", "out": "--out"}


def show_set(name: str, sigmas: tuple[float, ...], applications: int, *, plot: Path | None, as_json: bool) -> None:
    """Print the errors of a named set. UsageError before anything is written for what cannot be."""
    from rich.console import Console

    from fgcli.spectra.coefficient_sets import ORTHOGONALISERS, named_steps

    if plot is not None:
        check_figure(plot)
    steps = named_steps(name, sigmas, applications)
    console = Console(stderr=as_json, soft_wrap=True)
    _print_errors(steps, f"{name}, {applications} applications", console)
    if name in ORTHOGONALISERS:
        console.print(f"{name} is one polynomial for all σ_k: it keeps what lies below σ_k as well", highlight=False)
    console.print(f"wperp-ns uses it by `--option coeffs={name}`", markup=False, highlight=False)
    if plot is not None:
        _draw(steps, plot)
        console.print(f"figure written to {plot}", markup=False, highlight=False)
    if as_json:
        content = {"set": name, "applications": applications, "table": [step.content for step in steps]}
        sys.stdout.write(json.dumps(content, indent=2, allow_nan=False) + "\n")


def run(options: "FitOptions", *, out: Path | None, plot: Path | None, as_json: bool) -> "CoefficientTable":
    """Read or fit the table, keep it, print it. UsageError before anything is written for files that cannot be."""
    from rich.console import Console

    from fgcli.spectra.table_file import to_json

    if out is not None:
        check_file(out, "--out")
    if plot is not None:
        check_figure(plot)
        if out is not None and plot.resolve() == out.resolve():
            raise UsageError(f"--plot and --out are both {plot}; give each a file of its own")
    console = Console(stderr=as_json, soft_wrap=True)
    table = _kept_in_cache(options, console) if out is None else _kept_in(out, options, console)
    kind = "one polynomial for each of" if options.per_iteration else "one polynomial for all"
    title = f"step polynomials of degree {options.degree}, {kind} {options.applications} applications"
    _print_errors(table.fits, title, console)
    if plot is not None:
        _draw(table.fits, plot)
        console.print(f"figure written to {plot}", markup=False, highlight=False)
    if as_json:
        sys.stdout.write(to_json(table))
    return table


def _kept_in(path: Path, options: "FitOptions", console: "Console") -> "CoefficientTable":
    """--out: the table there, if it has these options, or a fitted one written there; never over another file."""
    from fgcli.spectra.table_file import read_table, write_table

    if path.exists():
        try:
            table = read_table(path)
        except UsageError as error:
            raise UsageError(f"--out would overwrite a file: {error}; give another --out or delete it") from None
        if table.options == options:
            console.print(f"read from {path}, fitted with the same options", markup=False, highlight=False)
            return table
    table = _fit(options)
    try:
        write_table(table, path)
    except OSError as error:
        raise UsageError(f"cannot write --out {path}: {error.strerror}") from None
    console.print(f"table written to {path}", markup=False, highlight=False)
    return table


def _kept_in_cache(options: "FitOptions", console: "Console") -> "CoefficientTable":
    """The table kept for these options, or a fitted one; a folder that cannot be written costs only a warning."""
    from fgcli.spectra.table_file import active_path, cached_path, read_table, write_table

    path, table = cached_path(options), None
    if path.exists():
        try:
            found = read_table(path)
            if found.options != options:
                raise UsageError(f"the coefficient table {path} was fitted with other options")
            table = found
            console.print(f"read from {path}, fitted with the same options", markup=False, highlight=False)
        except UsageError as error:
            print(f"fg: warning: {error}; fitting anew", file=sys.stderr)
    fitted = table is None
    table = _fit(options) if table is None else table
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if fitted:
            write_table(table, path)
            console.print(f"table written to {path}", markup=False, highlight=False)
        if table.covers():
            write_table(table, active_path())
            console.print("wperp-ns uses this table from now on")
        else:
            console.print(
                "wperp-ns uses it where `--option coeffs=FILE` names it: it does not cover every σ_k", markup=False
            )
    except OSError as error:
        print(f"fg: warning: the table is not kept, {path.parent}: {error.strerror}", file=sys.stderr)
    return table


def _fit(options: "FitOptions") -> "CoefficientTable":
    """Fit with progress on standard error: a bar on a terminal, elsewhere a line for each quarter."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from fgcli.spectra.fitting import fit_table

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    quarters = 0

    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"fitting {len(options.sigmas)} steps", total=1.0)

        def show(part: float) -> None:
            nonlocal quarters
            bar.update(task, completed=part)
            if bar.disable and int(4 * part) > quarters:
                quarters = int(4 * part)
                print(f"fitting: {25 * quarters} %", file=sys.stderr, flush=True)

        return fit_table(options, show)


def _print_errors(fits: "Sequence[StepFit | NamedStep]", title: str, console: "Console") -> None:
    from rich.table import Table

    from fgcli.spectra.coefficients import MARGIN
    from fgcli.spectra.step_polynomial import StepPolynomial

    grid = Table(title=title)
    grid.add_column("σ_k", justify="right")
    grid.add_column(f"largest error outside ±{MARGIN:g}", justify="right")
    grid.add_column("mean error", justify="right")
    rows: list[tuple[tuple[float, ...], ...]] = [
        one.polynomial.coefficients if isinstance(one.polynomial, StepPolynomial) else () for one in fits
    ]
    single = all(len(one) == 1 for one in rows)  # more than one polynomial does not fit into a line
    for name in "abcde"[: len(rows[0][0])] if single else "":
        grid.add_column(name, justify="right")
    for fit, own in zip(fits, rows, strict=True):
        numbers = (f"{number:.3f}" for number in own[0]) if single else ()
        grid.add_row(f"{fit.sigma:g}", f"{fit.error:.2g}", f"{fit.mean_error:.2g}", *numbers)
    console.width = max(console.width, LEAST_WIDTH)
    console.print(grid)


@library_defaults()
def _draw(fits: "Sequence[StepFit | NamedStep]", path: Path) -> None:
    """p^N against the step for each σ, the same bytes each time."""
    import torch
    from matplotlib.figure import Figure

    x = torch.linspace(0.0, 1.0, 1_001, dtype=torch.float64)
    columns = min(3, len(fits))
    rows = -(-len(fits) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
    for axis, fit in zip(axes, fits, strict=False):
        axis.plot([0.0, fit.sigma, fit.sigma, 1.0], [0.0, 0.0, 1.0, 1.0], color="0.6", label="step")
        axis.plot(x, fit.polynomial.evaluate(x), color="C0", label="p^N")
        axis.set_title(f"σ_k = {fit.sigma:g}, largest error {fit.error:.2g}", fontsize="small")
    for axis in list(axes)[len(fits) :]:
        axis.set_visible(False)
    figure.axes[0].legend(fontsize="small")
    figure.supxlabel("singular value")
    save_figure(figure, path)
