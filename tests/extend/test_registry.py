import subprocess
import sys

import pytest
from fake_plugins import plugin, registry

from fgcli import builtin
from fgcli.errors import UsageError
from fgcli.extend import hookspecs
from fgcli.extend.entry import Entry
from fgcli.extend.plugins import Origin, Plugins
from fgcli.extend.registry import HOOKS, Registry, load_registry


def entry(name: str) -> Entry:
    return Entry(name, "module:thing", "Summary.")


def test_every_hook_feeds_its_kind() -> None:
    for kind, hook in HOOKS.items():
        found = registry(**{hook: [entry("one")]})
        assert found.names(kind) == ["one"]
        assert found.entry(kind, "one").target == entry("one").target
        assert all(found.names(other) == [] for other in HOOKS if other != kind)


def test_every_hook_has_a_kind() -> None:
    assert set(HOOKS.values()) == {name for name in vars(hookspecs) if name.startswith("fg_")}


def test_a_method_is_a_guess_method_or_an_estimator() -> None:
    found = registry(fg_guess_methods=[entry("guess")], fg_estimators=[entry("full")])
    assert found.method("guess")[0] == "guess method"
    assert found.method("full") == ("estimator", entry("full"))
    assert found.method_names() == ["full", "guess"]


def test_a_prefix_names_a_model_by_what_it_is_made_of() -> None:
    found = registry(fg_models=[Entry("zoo", "builtins:print", "Summary.", prefix="zoo"), entry("mlp")])
    assert found.names("model") == ["mlp"]
    for what in ("folder/net", "net", "a:b"):  # `zoo:net` could be a module's, too
        assert found.entry("model", f"zoo:{what}").name == f"zoo:{what}"
        assert found.has_prefix(f"zoo:{what}")
    assert not found.has_prefix("mlp")
    with pytest.raises(UsageError, match=r"^--model: model 'zoo' needs a name or a folder: zoo:NAME_OR_FOLDER$"):
        found.entry("model", "zoo", where="--model")


def test_what_a_prefixed_model_is_called_with(capsys: pytest.CaptureFixture[str]) -> None:
    found = registry(fg_models=[Entry("zoo", "builtins:print", "Summary.", prefix="zoo")])
    found.entry("model", "zoo:net").load()("options", "shape")
    assert capsys.readouterr().out == "options net shape\n"


def test_unknown_names_list_the_known() -> None:
    found = registry(fg_guess_methods=[entry("wperp")], fg_estimators=[entry("backprop")], fg_models=[entry("mlp")])
    with pytest.raises(
        UsageError, match=r"^unknown method 'wperb'; did you mean 'wperp'\? known methods: backprop, wperp$"
    ):
        found.method("wperb")
    with pytest.raises(
        UsageError, match=r"^r\.yaml:1:8: unknown model 'cnn'; known models: mlp; one of your own is named"
    ):
        found.entry("model", "cnn", where="r.yaml:1:8")


@pytest.mark.parametrize("hooks", [("fg_guess_methods", "fg_guess_methods"), ("fg_guess_methods", "fg_estimators")])
def test_one_name_from_two_plugins_is_an_error_when_used(hooks: tuple[str, str]) -> None:
    plugins = Plugins()
    plugins.register(plugin(**{hooks[0]: [entry("twin"), entry("other")]}), Origin("first", "1.0"))
    plugins.register(plugin(**{hooks[1]: [entry("twin")]}), Origin("second", "2.0"))
    found = Registry(plugins)
    assert found.method("other")[1].name == "other"
    said = r"^r:1:9: method 'twin' is registered by first 1\.0 and second 2\.0; choose one: first:twin or second:twin$"
    with pytest.raises(UsageError, match=said):
        found.method("twin", where="r:1:9")
    assert found.find("method", "first:twin").origin == Origin("first", "1.0")
    assert found.find("method", "Second:twin").origin == Origin("second", "2.0")


def test_a_name_of_a_distribution_that_is_not_there() -> None:
    found = registry(fg_models=[entry("mlp")])
    assert found.entry("model", "fake:mlp") == entry("mlp")
    with pytest.raises(UsageError, match=r"^optimizer 'absent:mlp' is of the plugin 'absent', which is not in use$"):
        found.entry("optimizer", "absent:mlp")
    with pytest.raises(UsageError, match=r"^unknown model 'fake:mpl'; known models: mlp; one of your own is named"):
        found.entry("model", "fake:mpl")


BUILT_INS: list[Entry] = [entry for hook in HOOKS.values() for entry in getattr(builtin, hook, list)()]


@pytest.mark.parametrize("built_in", BUILT_INS, ids=lambda built_in: built_in.name)
def test_every_built_in_loads(built_in: Entry) -> None:
    assert callable(built_in.load())


@pytest.mark.parametrize("built_in", BUILT_INS, ids=lambda built_in: built_in.name)
def test_every_built_in_has_valid_defaults(built_in: Entry) -> None:
    if any(field.is_required() for field in built_in.options.model_fields.values()):
        return
    defaults = built_in.options().model_dump()
    assert built_in.options.model_validate(defaults) == built_in.options()


def test_the_built_ins_are_those_of_the_issue() -> None:
    found = load_registry()
    assert found.names("estimator") == [
        "backprop",
        "backprop-checkpoint",
        "directional",
        "fzoo",
        "local-gradient",
        "mezo",
        "pepita",
        "sofo",
        "spsa",
        "weight-perturbation",
    ]
    perturbations = ["activation-perturbation", "activation-perturbation-relu"]
    assert found.names("guess method") == [*perturbations, "wperp", "wperp-bottom", "wperp-ns", "wpre", "wt"]
    fixed = ["direct-feedback-alignment", "fdfa", "feedback-alignment", "sign-symmetry"]
    assert found.names("feedback rule") == sorted(["direct", "local", *fixed])
    assert found.names("dataset") == ["digits", "mnist-5k", "mnist1d", "movie-snippets", "news"]
    assert found.names("model") == sorted(
        ["convnet", "gpt-tiny", "mixer", "mixer-local", "mlp", "resmlp", "resnet-tiny", "transformer-tiny"]
    )
    assert found.names("optimizer") == ["adam", "adamw", "sgd"]
    assert found.names("loss") == ["bce", "cross-entropy", "error-rate", "mse"]
    assert found.names("lr_schedule") == ["constant", "cosine", "linear-warmup", "step"]


def test_k_may_be_the_rank() -> None:
    assert load_registry().method("wperp")[1].options.model_validate({"k": "rank"}).model_dump()["k"] == "rank"


def test_listing_and_checking_import_nothing_heavy() -> None:
    code = (
        "import sys; from fgcli.extend.registry import load_registry; from fgcli import recipe;"
        "r = recipe.resolve(None, {}, load_registry()); recipe.section_options(r, 'method', load_registry());"
        "print(sorted({'torch', 'scipy', 'numpy', 'matplotlib', 'sklearn', 'mnist1d'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
