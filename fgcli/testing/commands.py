"""`run_fg`: a command of `fg`, run within a test."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Ran:
    """How a command ended, and what it wrote."""

    exit_code: int
    stdout: str
    stderr: str


def run_fg(*arguments: object) -> Ran:
    """Run `fg` with these arguments in this process, as its command line would.

    Args:
        arguments: of the command line, each turned into text: `run_fg("train", "--epochs", 2)`.

    Returns:
        Its exit code, and what it wrote on standard output and standard error.
    """
    from typer.testing import CliRunner

    from fgcli.app import app

    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return Ran(done.exit_code, done.stdout, done.stderr)
