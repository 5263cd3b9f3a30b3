"""The command `fg`. Help and listings answer at once: what is heavy is imported inside the bodies of the commands."""

import errno
import functools
import inspect
import io
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import ArgumentInfo

from fgcli import __version__, errors
from fgcli.errors import FgError, PluginMissing, RunError, UsageError, one_line
from fgcli.extend.plugins import Registered
from fgcli.extend.registry import load_registry
from fgcli.files import refuse_impossible
from fgcli.shell import command_line


class InternalError(RunError):
    """An exception that nobody foresaw: a fault of fg, or of a plugin."""


# Click's, of which newer versions of typer have a copy of their own.
_ClickUsageError: Any = typer.BadParameter.__base__
_GIVEN = "fgcli.given"  # what follows `fgcli` on the command line, among what click keeps with a command


class FgGroup(TyperGroup):
    """Ends a command that failed with one line and its exit code; with --debug, with the traceback before it."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        if not args:  # answered with the help, which typer raises as a usage error
            return super().parse_args(ctx, args)
        ctx.meta[_GIVEN] = tuple(args)
        try:
            return super().parse_args(ctx, args)
        except _ClickUsageError as error:
            raise _refused(error, "") from error

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except _ClickUsageError as error:
            raise _refused(error, f"{ctx.invoked_subcommand} ") from error
        except FgError as error:
            if ctx.params.get("debug"):
                import traceback

                traceback.print_exception(error)
            missing = isinstance(error, PluginMissing)
            again = ctx.meta[_GIVEN]
            mend = f": {command_line(*again, plugins=error.files, folders=error.folders)}" if missing else ""
            typer.echo(f"fg: {error}{mend}", err=True)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as interrupt:
            typer.echo("fg: interrupted", err=True)
            raise typer.Exit(130) from interrupt


def _refused(error: Any, command: str) -> typer.Exit:
    """Say in one line what typer makes of the command line, where it says four."""
    fault = " ".join(error.format_message().split()).rstrip(".")
    given = "".join(f" (given: {one['input']!r})" for one in getattr(error.__cause__, "errors", list)())  # pydantic's
    mend = f"`fgcli {command}--help` shows what is allowed"
    asked = getattr(error, "option_name", "").lstrip("-")
    if error.ctx and any(one.name == asked for one in error.ctx.command.params if one.param_type_name == "argument"):
        fault, mend = f"no such option: --{asked}", f"it stands by itself: `fgcli {command}{asked.upper()}`"
    line = f"fg: {fault[:1].lower()}{fault[1:]}{given}; {mend}"
    typer.echo(one_line(line), err=True)
    return typer.Exit(error.exit_code)


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with exceptions that nobody foresaw turned into an FgError."""

    @functools.wraps(command)
    def guard(*args: Any, **options: Any) -> None:
        try:
            for name, given in options.items():
                for one in given if isinstance(given, list | tuple) else [given]:
                    if isinstance(one, Path):
                        refuse_impossible(one, _spelled(command, name))
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
            raise InternalError(f"internal error, {what}; `fgcli --debug {name} ...` shows where") from error

    return guard


def _spelled(command: Callable[..., None], name: str) -> str:
    """A parameter of a command as its help has it."""
    annotation = inspect.signature(command).parameters[name].annotation
    argument = next((one for one in get_args(annotation) if isinstance(one, ArgumentInfo)), None)
    return f"--{name.replace('_', '-')}" if argument is None else (argument.metavar or name).strip("[].")


class PanelledCommand(TyperCommand):
    """Shows the flags of each help panel under its title, as typer does with rich, which would take 0.1 s more."""

    def panels(self, ctx: Any) -> dict[str, list[tuple[str, str]]]:
        """By title: each flag or argument, and what it says."""
        panels: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
            if record := parameter.get_help_record(ctx):
                panels.setdefault(getattr(parameter, "rich_help_panel", None) or usual, []).append(record)
        return {title: records for title, records in panels.items() if records}

    def format_options(self, ctx: Any, formatter: Any) -> None:
        for title, records in self.panels(ctx).items():
            with formatter.section(title):
                formatter.write_dl(records)


class PluggedGroup(FgGroup):
    """A group whose commands are those of the registry; one is imported when it is called, and not for the list."""

    def list_commands(self, ctx: Any) -> list[str]:
        return load_registry().names("subcommand")

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if ctx.resilient_parsing and cmd_name not in self.list_commands(ctx):
            return None  # the shell completes what is not yet a name
        return _command(load_registry().find("subcommand", cmd_name))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        entries = {one.entry.name: one.entry.summary for one in load_registry().registered("subcommand")}
        with formatter.section("Commands"):
            formatter.write_dl(list(entries.items()))


def _command(one: Registered) -> Any:
    """The command that a subcommand's entry stands for."""
    target = one.load()
    program = typer.Typer(**_PLAIN, add_completion=False)
    try:
        program.command(one.entry.name, cls=PanelledCommand)(guarded(target))
        return typer.main.get_command(program)
    except Exception as cause:
        fault = f"{type(cause).__name__}: {cause}"
        raise UsageError(
            f"subcommand {one.entry.name} of {one.origin.shown} is no function for typer: {fault}"
        ) from cause


# Plain help and usage errors: with typer's rich ones, `fgcli train --help` takes 0.3 s of CPU time instead of 0.2.
_PLAIN: dict[str, Any] = {"pretty_exceptions_enable": False, "rich_markup_mode": None}
app = typer.Typer(name="fg", cls=PluggedGroup, no_args_is_help=True, **_PLAIN)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"fg {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    strict_plugins: Annotated[
        bool,
        typer.Option("--strict-plugins", envvar="FG_STRICT_PLUGINS", help="Stop when an installed plugin is broken."),
    ] = False,
) -> None:
    """Gradient estimation without backpropagation: forward gradients, W̃⊥ and their diagnostics."""
    complaints = load_registry().complaints()
    if strict_plugins and complaints:
        raise UsageError("; ".join(complaints))
    if context.invoked_subcommand != "plugins":  # which lists them itself
        for complaint in complaints:
            _warn(complaint)


def _warn(message: str) -> None:
    errors.warned.append(f"fg: warning: {one_line(message)}")
    typer.echo(errors.warned[-1], err=True)


class Warnings(logging.Handler):
    """What the parts of fg warn of, as the command says it."""

    def emit(self, record: logging.LogRecord) -> None:
        _warn(record.getMessage())


def main() -> None:
    """The entry point of the command."""
    if sys.platform == "win32":  # the locks of runs, signals and groups of processes are POSIX's
        typer.echo("fg: the command runs on Linux and macOS, and on Windows within WSL: `wsl --install`", err=True)
        sys.exit(2)
    if isinstance(sys.stdout, io.TextIOWrapper):  # W̃ where there is ASCII alone, and names of files that are no text
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.getLogger("fgcli").addHandler(Warnings(logging.WARNING))
    # Where its cache cannot be written it takes a temporary folder, which nobody needs to be told in three lines.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        app()
    except OSError as error:  # of what --help and --version write, before any command
        typer.echo(f"fg: {error.strerror or error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
