"""Packages: which are installed, and those that only some commands need, each an extra of fgcli. Imports none."""

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from fgcli.errors import UsageError


def require(extra: str, *modules: str, what: str) -> None:
    """UsageError with the command that installs them where modules of an extra are missing; `what` needs them."""
    if missing := [name for name in modules if find_spec(name) is None]:
        raise UsageError(f"{what} needs {' and '.join(missing)}, not installed here: pip install 'fgcli[{extra}]'")


def version_of(package: str) -> str | None:
    """The version that is installed; None where it is not."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
