"""Coefficient tables as files: strict JSON with a checksum, in the user's cache folder, the package, or anywhere.

In the cache folder `newton-schulz.json` is the table that W̃⊥-NS uses; the tables of all fits, named by their
options, lie beside it.
"""

import dataclasses
import hashlib
import importlib.resources
import json
import os
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from fgcli.errors import UsageError, unknown
from fgcli.files import cache_folder, from_json, read_regular, write_atomically
from fgcli.spectra.coefficient_sets import NAMES, PAPER
from fgcli.spectra.coefficients import CoefficientTable, FitOptions, StepFit, instability, measure
from fgcli.spectra.step_polynomial import StepPolynomial

FORMAT = "fg newton-schulz coefficients"
SCHEMA_VERSION = 1
SIZE_LIMIT = 2**20  # bytes
TEXT_LIMIT = 2**17  # characters of a table that is written into a recipe, which has other parts and a limit of its own
SHIPPED = "shipped"


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class _Step(_Strict):
    sigma: FiniteFloat
    coefficients: list[list[FiniteFloat]]
    error: FiniteFloat
    mean_error: FiniteFloat
    margin: FiniteFloat


class _Fit(_Strict):
    """The rest of the options of the fit."""

    per_iteration: bool
    seed: int
    restarts: int
    steps: int


class _File(_Strict):
    format: Literal["fg newton-schulz coefficients"]
    schema_version: int
    degree: int
    applications: int
    fit: _Fit
    table: list[_Step]
    checksum: str


def to_json(table: CoefficientTable) -> str:
    """The file's text. Equal tables give equal text."""
    options = dataclasses.asdict(table.options)
    content: dict[str, Any] = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "degree": options["degree"],
        "applications": options["applications"],
        "fit": {name: options[name] for name in _Fit.model_fields},
        "table": [{name: getattr(fit, name) for name in _Step.model_fields} for fit in table.fits],
    }
    return json.dumps(content | {"checksum": _checksum(content)}, indent=2, allow_nan=False) + "\n"


def parse_table(data: bytes, name: str) -> CoefficientTable:
    """The table in a file's bytes; UsageError that starts with `name` and says why it is refused.

    Refused: what is no table of fg, is newer than this fg, was changed or damaged, has polynomials that are
    unstable (`coefficients.instability`), or states errors that its polynomials do not have.
    """
    try:
        try:
            content = from_json(data.decode())
        except ValueError as error:
            raise ValueError(f"it is not strict JSON ({error})") from None
        return _checked_table(content)
    except (ValueError, UsageError) as error:
        raise UsageError(f"{name} is refused: {error}") from None


def read_table(path: Path) -> CoefficientTable:
    """The table in a file. UsageError as `parse_table`, also for a file that cannot be read."""
    try:
        data = read_regular(path, SIZE_LIMIT)
    except OSError as error:
        raise UsageError(f"cannot read the coefficient table {path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"the coefficient table {path} is refused: {error}") from None
    return parse_table(data, f"the coefficient table {path}")


def write_table(table: CoefficientTable, path: Path) -> None:
    """Write atomically: after a kill at any moment the path holds the old content or the new. OSError if it fails."""
    write_atomically(path, to_json(table))


@cache
def shipped_table() -> CoefficientTable:
    """The table in the package: σ = 0.1 … 0.9, degree 7, N = 5, one polynomial for all applications."""
    resource = importlib.resources.files("fgcli.spectra").joinpath("newton_schulz.json")
    return parse_table(resource.read_bytes(), "the coefficient table shipped with fg")


def find_table(named: str | os.PathLike[str] | None = None) -> CoefficientTable:
    """The table to use: the named one, else the one in the user's cache folder, else the shipped one.

    Named is `shipped` or `paper`, which is the same, the text that `to_text` gives, or a file. What is there and
    refused is a UsageError, never passed over silently.
    """
    if named in (SHIPPED, PAPER):
        return shipped_table()
    if isinstance(named, str) and named.startswith("{"):
        return parse_table(named.encode(), "the coefficient table written out")
    if isinstance(named, str) and Path(named).name == named and "." not in named and not Path(named).exists():
        raise unknown("coefficient set", named, (*NAMES, SHIPPED))
    if named is not None:
        return read_table(Path(named))
    path = active_path()
    if not path.exists():
        return shipped_table()
    try:
        return read_table(path)
    except UsageError as error:
        raise UsageError(f"{error}; delete it, or write a new one with `fgcli fit-ns-coeffs`") from None


def to_text(table: CoefficientTable) -> str:
    """What `find_table` takes for this table on every machine: `shipped`, or the table itself in one line.

    UsageError for a table too large for that.
    """
    if table == shipped_table():
        return SHIPPED
    text = json.dumps(json.loads(to_json(table)), separators=(",", ":"))
    if len(text) > TEXT_LIMIT:
        raise UsageError(
            f"the coefficient table has {len(text)} characters; at most {TEXT_LIMIT} are written into a run's recipe: "
            "fit fewer σ"
        )
    return text


def active_path() -> Path:
    """Where the user's table lies that W̃⊥-NS uses."""
    return cache_folder() / "newton-schulz.json"


def cached_path(options: FitOptions) -> Path:
    """Where the table fitted with these options is kept."""
    digest = hashlib.sha256(_canonical(dataclasses.asdict(options))).hexdigest()
    return cache_folder() / f"newton-schulz-{digest[:16]}.json"


def _canonical(content: object) -> bytes:
    """The bytes of JSON that depend on the values alone, not on layout or the order of keys."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _checksum(content: dict[str, Any]) -> str:
    return "sha256:" + hashlib.sha256(_canonical(content)).hexdigest()


def _checked_table(content: Any) -> CoefficientTable:
    """ValueError or UsageError with the reason for what must not be used."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f'it is not a table of `fgcli fit-ns-coeffs` (no "format": "{FORMAT}")')
    version = content.get("schema_version")
    if type(version) is not int or version < 1:
        raise ValueError(f"its schema version is {version!r}; it must be {SCHEMA_VERSION}")
    if version > SCHEMA_VERSION:
        raise ValueError(f"its schema version {version} is newer than this fg's, {SCHEMA_VERSION}; update fg")
    try:
        total = _checksum({key: value for key, value in content.items() if key != "checksum"})
    except ValueError:  # a number beyond the range of a double, read as infinity
        raise ValueError("it holds a number that is not finite") from None
    if content.get("checksum") != total:
        raise ValueError("its checksum does not match its content; it was changed or damaged")
    try:
        file = _File.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']}") from None
    options = FitOptions(
        degree=file.degree,
        applications=file.applications,
        sigmas=tuple(step.sigma for step in file.table),
        **file.fit.model_dump(),
    )
    if [step.sigma for step in file.table] != list(options.sigmas):
        raise ValueError("its σ are not in ascending order, each once")
    return CoefficientTable(options, tuple(_checked_fit(step, options) for step in file.table))


def _checked_fit(step: _Step, options: FitOptions) -> StepFit:
    rows = options.applications if options.per_iteration else 1
    degrees = [2 * len(row) - 1 for row in step.coefficients]
    if degrees != [options.degree] * rows:
        found = " and ".join(map(str, sorted(set(degrees)))) or "none"
        wanted = f"{rows} of degree {options.degree}"
        raise ValueError(f"σ {step.sigma:g}: {len(degrees)} polynomials of degree {found} where {wanted} belong")
    polynomial = StepPolynomial(tuple(map(tuple, step.coefficients)), options.applications)
    if reason := instability(polynomial):
        raise ValueError(f"σ {step.sigma:g}: the polynomial is unstable, {reason}")
    error, mean_error = measure(polynomial, step.sigma)
    if abs(error - step.error) > 1e-6 or abs(mean_error - step.mean_error) > 1e-6:
        raise ValueError(
            f"σ {step.sigma:g}: the stated errors {step.error:g} and {step.mean_error:g} are not those of the "
            f"polynomial, {error:g} and {mean_error:g}"
        )
    return StepFit(step.sigma, polynomial, error, mean_error, step.margin)
