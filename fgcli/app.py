"""The command `fg`. Help and listings answer at once: what is heavy is imported inside the bodies of the commands."""

import errno
import functools
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fgcli import __version__
from fgcli.commands.fit_ns_coeffs import fit_ns_coeffs
from fgcli.commands.train import train
from fgcli.errors import FgError, RunError


class InternalError(RunError):
    """An exception that nobody foresaw: a fault of fg, or of a plugin."""


class FgGroup(TyperGroup):
    """Ends a command that failed with one line and its exit code; with --debug, with the traceback before it."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except FgError as error:
            if ctx.params.get("debug"):
                import traceback

                traceback.print_exception(error)
            typer.echo(f"fg: {error}", err=True)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as interrupt:
            typer.echo("fg: interrupted", err=True)
            raise typer.Exit(130) from interrupt


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with exceptions that nobody foresaw turned into an FgError."""

    @functools.wraps(command)
    def guard(*args: Any, **options: Any) -> None:
        try:
            command(*args, **options)
        except (FgError, typer.Exit):
            raise
        except OSError as error:
            if error.errno == errno.EPIPE:  # `fg ... | head`: typer ends quietly
                raise
            where = f" ({error.filename})" if error.filename else ""
            raise RunError(f"{error.strerror or error}{where}") from error
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            name = command.__name__.replace("_", "-")
            raise InternalError(f"internal error, {what}; `fg --debug {name} ...` shows where") from error

    return guard


# Plain help and usage errors: with typer's rich ones, `fg train --help` takes 0.3 s of CPU time instead of 0.2.
app = typer.Typer(name="fg", cls=FgGroup, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"fg {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Gradient estimation without backpropagation: forward gradients, W̃⊥ and their diagnostics."""


app.command("train")(guarded(train))
app.command("fit-ns-coeffs")(guarded(fit_ns_coeffs))


def main() -> None:
    """The entry point of the command."""
    app()


if __name__ == "__main__":
    main()
