import subprocess
import sys

import pytest

from fgcli.errors import FgError, RunError, UsageError, exception_text, unknown


def test_exit_codes() -> None:
    assert (FgError.exit_code, UsageError.exit_code, RunError.exit_code) == (2, 2, 1)


@pytest.mark.parametrize("hostile", ["a\nb", "a\r\nb", "\x1b[31mred", "a\x00b", "\u202eabc", "\udc80", "\u2028"])
def test_a_message_is_one_printable_line(hostile: str) -> None:
    assert str(UsageError(f"name is {hostile}")).isprintable()


def test_a_message_keeps_its_letters() -> None:
    assert str(UsageError("W̃ᵀ is 'ö'")) == "W̃ᵀ is 'ö'"


def test_unknown_names_the_nearest_and_the_known() -> None:
    error = unknown("method", "wperb", ["wt", "wperp", "backprop"])
    assert str(error) == "unknown method 'wperb'; did you mean 'wperp'? known methods: backprop, wperp, wt"


def test_unknown_ignores_case() -> None:
    assert "did you mean 'wperp'?" in str(unknown("method", "WPERP", ["wt", "wperp"]))


def test_unknown_without_a_near_name() -> None:
    assert str(unknown("model", "zzz", ["mlp"])) == "unknown model 'zzz'; known models: mlp"


def test_unknown_with_owner_and_place() -> None:
    error = unknown("option of method wt", "solver", [], where="a.yaml:1:2")
    assert str(error) == "a.yaml:1:2: unknown option 'solver' of method wt; there are none"


def test_imports_neither_torch_nor_pydantic() -> None:
    code = "import sys, fgcli.errors; print(sorted({'torch', 'pydantic', 'yaml'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_an_exceptions_text_is_cut() -> None:
    text = exception_text(ValueError("x" * 1000))
    assert text.startswith("ValueError: xxx")
    assert text.endswith("x…")
    assert len(text) == 300
