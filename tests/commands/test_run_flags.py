"""The flags of a run are the fields of Recipe: names, groups, help texts, defaults and how their values are read."""

import re
from typing import get_args

import pytest
from tiny_runs import fg

import fgcli.recipe
from fgcli.commands import run_flags
from fgcli.commands.run_flags import RunFlags, with_run_flags
from fgcli.errors import UsageError
from fgcli.extend.registry import load_registry
from fgcli.models.options import MLPOptions
from fgcli.recipe import default_of, flag
from fgcli.recipe_keys import Panel, Recipe, _key


def panels() -> dict[str, str]:
    """The help of train: the text under each title, in one line."""
    parts = re.split(r"^(\w[\w ]*):\n", fg("train", "--help").stdout, flags=re.MULTILINE)[1:]
    return {title: " ".join(text.split()) for title, text in zip(parts[::2], parts[1::2], strict=True)}


def test_every_key_of_a_recipe_is_a_flag_with_its_help_in_its_panel() -> None:
    shown = panels()
    assert set(get_args(Panel)) < set(shown)
    for key, field in Recipe.model_fields.items():
        assert isinstance(field.json_schema_extra, dict)
        text = shown[str(field.json_schema_extra["panel"])]
        assert flag((key,)).replace("/", " / ") in text
        assert (field.description or "").replace("`", "").removesuffix(".") in text


@pytest.mark.parametrize(
    ("said", "key"),
    [
        ("Learning rate (default 0.0001).", "lr"),
        ("Give every layer a bias (default --no-bias).", "bias"),
        ("Directions in one step, for every guess method (default 1).", "tangents"),
        ("Units of every hidden layer (default 128).", "width"),
    ],
)
def test_the_help_has_the_defaults_of_the_schemas(said: str, key: str) -> None:
    assert said in " ".join(fg("train", "--help").stdout.split())
    value = default_of(key, load_registry())
    assert f"(default {'--no-bias' if value is False else value})" in said


def test_the_default_of_a_shortcut_is_its_owners() -> None:
    registry = load_registry()
    assert default_of("width", registry) == MLPOptions.model_fields["width"].default
    assert default_of("k", registry) is None  # wt has none
    assert default_of("epochs", registry) == Recipe.model_fields["epochs"].default


def test_metavars_follow_the_types() -> None:
    shown = " ".join(fg("train", "--help").stdout.split())
    for text in (
        "--k N|rank", "--lr X", "--combine mean|orthogonal|sitewise|projection", "--option KEY=VALUE", "--model NAME",
        "--keep-checkpoints N,N,…", "--diagnostics NAME,NAME,…", "without changing it: bias, variance, mse,",
    ):  # fmt: skip
        assert text in shown


def test_a_new_field_of_the_recipe_is_a_flag_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Longer(Recipe):
        patience: int | None = _key("Optimisation", 3, "Evaluations without progress after which to stop.")

    monkeypatch.setattr(fgcli.recipe, "Recipe", Longer)
    monkeypatch.setattr(run_flags, "Recipe", Longer)
    taken = list[RunFlags]()

    @with_run_flags()
    def command(run_flags: RunFlags) -> None:
        taken.append(run_flags)

    assert "patience" in command.__annotations__
    assert "(default 3)." in command.__annotations__["patience"].__metadata__[0].help
    command(patience="7")
    assert taken[0].overrides()["patience"] == 7


def test_values_are_read_by_their_type() -> None:
    given = {
        "method": "1e3", "k": "rank", "width": "1e1", "lr": "1e-3", "bias": True, "device": None,
        "keep_checkpoints": "1, 2,", "diagnostics": "bias,mse", "model_options": ["a=1", "b=[1, x]"],
    }  # fmt: skip
    assert RunFlags(given).overrides() == {
        "method": "1e3", "k": "rank", "width": 10, "lr": 0.001, "bias": True, "device": None,
        "keep_checkpoints": [1, 2], "diagnostics": ["bias", "mse"], "model_options": {"a": 1, "b": [1, "x"]},
    }  # fmt: skip


def test_a_number_of_absurd_length_is_refused_by_its_flag() -> None:
    with pytest.raises(UsageError, match=r"^--batch-size is a number of 200 characters"):
        RunFlags({"batch_size": "1" * 200}).overrides()


def test_left_out_keys_have_no_flag() -> None:
    @with_run_flags(leave_out=("epochs",))
    def command(run_flags: RunFlags) -> None: ...

    assert "epochs" not in command.__annotations__
    assert "max_steps" in command.__annotations__
