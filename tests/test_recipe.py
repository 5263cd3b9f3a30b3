from typing import Annotated, Any, ClassVar, Literal, Self

import pytest
from fake_plugins import plugin, registry
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError, model_validator

from fgcli.errors import UsageError
from fgcli.extend.entry import Entry
from fgcli.extend.options import EngineOptions, GuessOptions, Options
from fgcli.extend.plugins import Origin, Plugins
from fgcli.extend.registry import Registry
from fgcli.recipe import Source, dump, resolve, section_options
from fgcli.recipe_keys import Recipe
from fgcli.yaml_reader import read_yaml

SHARED = ", ".join(sorted({**GuessOptions.model_fields, **EngineOptions.model_fields}))


class SubspaceOptions(GuessOptions):
    k: Annotated[int, Field(ge=1)] | Literal["rank"] = Field(default=10, description="K.")
    solver: Literal["svd", "ritz"] = Field(default="svd", description="Solver.")
    label: str = Field(default="", description="Label.")
    scale: float | None = Field(default=1.0, ge=0, description="Scale.")
    pair: tuple[int, int] = Field(default=(1, 2), description="Pair.")


class NetOptions(Options):
    width_bounds_k: ClassVar[bool] = True

    width: int = Field(default=128, ge=1, description="Width.")
    depth: int = Field(default=3, ge=1, description="Depth.")
    bias: bool = Field(default=False, description="Bias.")
    activation: Literal["relu", "gelu"] = Field(default="relu", description="Activation.")


class ChannelOptions(Options):
    width: int = Field(default=4, ge=1, description="Channels, of as many dimensions each as there are positions.")


class LinearOptions(Options):
    bias: bool | None = Field(default=True, description="Bias.")


class DataOptions(Options):
    low: int = Field(default=0, description="Low.")
    high: int = Field(default=1, description="High.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low is {self.low}; it must be at most high, {self.high}")
        return self


class NeedyOptions(Options):
    path: str = Field(description="Path.")


class RaisingOptions(Options):
    @model_validator(mode="before")
    @classmethod
    def _raise(cls, data: Any) -> Any:
        raise KeyError("oops")


class OddOptions(GuessOptions):
    k: float = Field(default=0.5, description="A share, where the others have a number.")


def entry(name: str, options: type[Options] = Options) -> Entry:
    return Entry(name, "module:thing", "Summary.", options)


REGISTRY = registry(
    fg_guess_methods=[
        entry("wt", GuessOptions),
        entry("wperp", SubspaceOptions),
        entry("odd", OddOptions),
        entry("raising", RaisingOptions),
    ],
    fg_estimators=[entry("backprop")],
    fg_datasets=[entry("mnist1d"), entry("ordered", DataOptions), entry("needy", NeedyOptions)],
    fg_models=[entry("mlp", NetOptions), entry("linear", LinearOptions), entry("conv", ChannelOptions)],
    fg_losses=[entry("cross-entropy")],
    fg_optimizers=[entry("adamw")],
    fg_lr_schedules=[entry("constant")],
)


def from_text(text: str, **overrides: object) -> Recipe:
    document = read_yaml(text, "r.yaml")
    assert isinstance(document.data, dict)
    return resolve(Source("r.yaml", document.data, document.values, document.keys), overrides, REGISTRY)


def test_defaults_are_the_papers() -> None:
    recipe = resolve(None, {}, REGISTRY)
    assert (recipe.method, recipe.dataset, recipe.model, recipe.optimizer) == ("wt", "mnist1d", "mlp", "adamw")
    assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.seed) == (300, 512, 1e-4, 0)
    assert (recipe.width, recipe.depth, recipe.bias, recipe.k) == (128, 3, False, None)
    assert (recipe.max_steps, recipe.threads, recipe.device, recipe.eval_every) == (None, None, "auto", 10)


def test_defaults_of_the_options_are_filled_in() -> None:
    recipe = resolve(None, {"method": "wperp"}, REGISTRY)
    assert recipe.k == 10
    own = {
        "uncovered": "perturb",
        "embeddings": "guess",
        "solver": "svd",
        "label": "",
        "scale": 1.0,
        "pair": [1, 2],
    }
    engine = {"draws": "gaussian", "shrinkage": 0.01, "tangent_chunk": None, "output_gradient": None}
    assert recipe.options == own | engine
    assert (recipe.feedback, recipe.feedback_learning, recipe.feedback_rate) == ("none", "tangents", 0.02)
    assert (recipe.feedback_every, recipe.correction, recipe.output_gradient) == (1, 0.0, None)
    assert (recipe.tangents, recipe.combine, recipe.tangent_chunk) == (1, "mean", None)
    assert recipe.model_options == {"activation": "relu"}


def test_a_flag_wins_over_the_file_over_the_default() -> None:
    text = "method: wperp\nwidth: 64\nepochs: 7\nlr: 1e-3\noptions: {solver: ritz, label: a}"
    recipe = from_text(text, width=32, options={"label": "b"}, seed=None)
    assert (recipe.width, recipe.epochs, recipe.lr, recipe.seed, recipe.depth) == (32, 7, 1e-3, 0, 3)
    assert (recipe.options["solver"], recipe.options["label"]) == ("ritz", "b")


@pytest.mark.parametrize("text", ["k: 5", "options: {k: 5}"])
@pytest.mark.parametrize("overrides", [{"k": 3}, {"options": {"k": 3}}])
def test_k_is_one_option_in_both_places(text: str, overrides: dict[str, object]) -> None:
    assert from_text(f"method: wperp\n{text}").k == 5
    recipe = from_text(f"method: wperp\n{text}", **overrides)
    assert recipe.k == 3
    assert "k" not in recipe.options


@pytest.mark.parametrize(("given", "k"), [("rank", "rank"), (10, 10)])
def test_k_takes_a_number_or_rank(given: object, k: object) -> None:
    assert resolve(None, {"method": "wperp", "k": given}, REGISTRY).k == k


def test_k_may_be_the_whole_width() -> None:
    assert resolve(None, {"method": "wperp", "k": 8, "width": 8}, REGISTRY).k == 8
    assert resolve(None, {"method": "wperp", "k": 8, "model": "conv"}, REGISTRY).k == 8


def test_a_null_in_the_file_is_the_default() -> None:
    assert from_text("method: wt\nk: null\nwidth: null\nmax_steps:\noptions:\n").width == 128


REFUSED_FLAGS: list[tuple[dict[str, object], str]] = [
    ({"width": 0}, "--width is 0; it must be at least 1"),
    ({"depth": 0}, "--depth is 0; it must be at least 1"),
    ({"local_losses": 0}, "--local-losses is 0: it must be N from 1 on, for a head at every N-th layer, or names"),
    ({"batch_size": 0}, "--batch-size is 0; it must be at least 1"),
    ({"epochs": 0}, "--epochs is 0; it must be at least 1"),
    ({"epochs": True}, "--epochs is true; it must be a whole number"),
    ({"max_steps": 0}, "--max-steps is 0; it must be at least 1"),
    ({"max_steps": 2**63}, f"--max-steps is {2**63}; it must be below {2**63}"),
    ({"eval_every": -1}, "--eval-every is -1; it must be at least 1"),
    ({"threads": 0}, "--threads is 0; it must be at least 1"),
    ({"threads": 1025}, "--threads is 1025; it must be at most 1024"),
    ({"epochs": "3"}, "--epochs is '3'; it must be a whole number"),
    ({"bias": 1}, "--bias/--no-bias is 1; it must be true or false"),
    ({"bias": "yes"}, "--bias/--no-bias is 'yes'; it must be true or false"),
    ({"seed": -1}, "--seed is -1; it must be at least 0"),
    ({"seed": 2**63}, f"--seed is {2**63}; it must be below {2**63}"),
    ({"lr": 0}, "--lr is 0; it must be above 0"),
    ({"lr": -1e-3}, "--lr is -0.001; it must be above 0"),
    ({"lr": float("nan")}, "--lr is nan; it must be a finite number"),
    ({"lr": float("inf")}, "--lr is inf; it must be a finite number"),
    ({"lr": "nan"}, "--lr is 'nan'; it must be a finite number"),
    ({"bias": "x"}, "--bias/--no-bias is 'x'; it must be true or false"),
    ({"method": "wperp", "k": 0}, "--k is 0; it must be at least 1 or 'rank'"),
    ({"method": "wperp", "k": "x"}, "--k is 'x'; it must be a whole number or 'rank'"),
    ({"method": "wperp", "k": 200}, "--k is 200; it must be at most the width, 128"),
    ({"method": "wperp", "k": 9, "width": 8}, "--k is 9; it must be at most the width, 8"),
    ({"method": "wperp", "width": 8}, "--width is 8, below k, which is 10 by default; set k to at most 8"),
    ({"k": 3}, f"--k is given, but method wt has no option k; its options: {SHARED}"),
    ({"tangents": 0}, "--tangents is 0; it must be at least 1"),
    ({"micro_batch": 0}, "--micro-batch is 0; it must be at least 1"),
    ({"method": "backprop", "memory": "replay"}, "--memory is given, but method backprop has no option memory"),
    ({"combine": "sum"}, "--combine is 'sum'; it must be 'mean', 'orthogonal', 'sitewise' or 'projection'"),
    (
        {"tangents": 3, "options": {"draws": "antithetic"}},
        "method wt: tangents is 3; with draws antithetic it must be even",
    ),
    (
        {"feedback_learning": "none"},
        "method wt: feedback_learning is none; it is of feedback: set feedback, or leave it out",
    ),
    (
        {"feedback": "local", "feedback_learning": "none", "feedback_rate": 0.5},
        "method wt: feedback_rate is 0.5; with feedback_learning none nothing is learned: leave it out",
    ),
    (
        {"feedback": "local", "feedback_learning": "bootstrap", "feedback_every": 4},
        "method wt: feedback_every is 4; feedback_learning bootstrap takes no tangents: leave it out",
    ),
    (
        {"combine": "orthogonal", "options": {"draws": "rademacher"}},
        "method wt: draws is rademacher; combine orthogonal makes its own of Gaussian ones",
    ),
    ({"method": "backprop", "tangents": 3}, "--tangents is given, but method backprop has no option tangents"),
    ({"method": "backprop", "k": 3}, "--k is given, but method backprop has no option k; it has none"),
    ({"model": "linear", "width": 3}, "--width is given, but model linear has no option width; its options: bias"),
    ({"method": "wperb"}, "--method: unknown method 'wperb'; did you mean 'wperp'? known methods: backprop, odd, "),
    ({"dataset": "mnist"}, "--dataset: unknown dataset 'mnist'; did you mean 'mnist1d'? known datasets: mnist1d, "),
    ({"model": "nlp"}, "--model: unknown model 'nlp'; did you mean 'mlp'? known models: conv, linear, mlp"),
    ({"optimizer": "adam"}, "--optimizer: unknown optimizer 'adam'; did you mean 'adamw'? known optimizers: adamw"),
    ({"widht": 3}, "--widht: unknown recipe key 'widht'; did you mean 'width'? known recipe keys: batch_size, "),
    (
        {"options": {"uncoverd": 1}},
        f"--option uncoverd: unknown option 'uncoverd' of method wt; did you mean 'uncovered'? known options: {SHARED}",
    ),
    ({"method": "backprop", "options": {"x": 1}}, "--option x: unknown option 'x' of method backprop; there are none"),
    ({"method": "wperp", "options": {"solver": "s"}}, "--option solver is 's'; it must be 'svd' or 'ritz'"),
    ({"method": "wperp", "options": {"pair": [1, "a"]}}, "--option pair[1] is 'a'; it must be a whole number"),
    ({"method": "wperp", "options": {"pair": [1, "2"]}}, "--option pair[1] is '2'; it must be a whole number"),
    ({"dataset": "ordered", "dataset_options": {"low": "a"}}, "--dataset-option low is 'a'; it must be a whole number"),
    ({"model_options": {"activation": "a"}}, "--model-option activation is 'a'; it must be 'relu' or 'gelu'"),
    ({"optimizer_options": {"x": 1}}, "--optimizer-option x: unknown option 'x' of optimizer adamw; there are none"),
    ({"method": "wperp", "options": {"k": 1}, "k": 1}, "--k and --option k say the same; give one of them"),
    ({"dataset": "ordered", "dataset_options": {"low": 2}}, "dataset ordered: low is 2; it must be at most high, 1"),
    ({"dataset": "needy"}, "option path of dataset needy is missing; it has no default"),
    ({"method": "odd"}, "option k of the recipe is 0.5; it must be a whole number or 'rank'"),
    ({"method": "raising"}, "method raising: checking its options failed: KeyError: 'oops'"),
]


@pytest.mark.parametrize(("overrides", "message"), REFUSED_FLAGS)
def test_refused_flags(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(None, overrides, REGISTRY)
    assert str(caught.value).startswith(message)


REFUSED_FILES = [
    ("method: wt\n\nepochs: many", "r.yaml:3:9: epochs is 'many'; it must be a whole number"),
    ("lr: .nan", "r.yaml:1:5: lr is nan; it must be a finite number"),
    ("lr:", "r.yaml:1:4: lr is empty; it must be a number"),
    ("seed: 1_000", "r.yaml:1:7: seed is '1_000'; it must be a whole number"),
    ('seed: "10"', "r.yaml:1:7: seed is '10'; it must be a whole number"),
    ("threads: 100000", "r.yaml:1:10: threads is 100000; it must be at most 1024"),
    ("bias: yes", "r.yaml:1:7: bias is 'yes'; it must be true or false"),
    ("epochs: true", "r.yaml:1:9: epochs is true; it must be a whole number"),
    ("width: [1]", "r.yaml:1:8: width is [1]; it must be a whole number"),
    ("method: 5", "r.yaml:1:9: method is 5; it must be the name of a method"),
    ("method: wperb", "r.yaml:1:9: unknown method 'wperb'; did you mean 'wperp'?"),
    ("a: 1\nepochz: 3", "r.yaml:1:1: unknown recipe key 'a'; known recipe keys: batch_size"),
    ("seed: 1\nepochz: 3", "r.yaml:2:1: unknown recipe key 'epochz'; did you mean 'epochs'?"),
    ("options: 5", "r.yaml:1:10: options is 5; it must be a mapping of option names to values"),
    ("options:\n  sol: 1", f"r.yaml:2:3: unknown option 'sol' of method wt; known options: {SHARED}"),
    ("method: wperp\noptions:\n  solver: s", "r.yaml:3:11: options.solver is 's'; it must be 'svd' or 'ritz'"),
    ("method: wperp\noptions: {pair: [1, a]}", "r.yaml:2:21: options.pair[1] is 'a'; it must be a whole number"),
    ("method: wperp\noptions: {pair: [1]}", "r.yaml:2:17: options.pair[1] is missing; it has no default"),
    ("method: wperp\nk: 200", "r.yaml:2:4: k is 200; it must be at most the width, 128"),
    ("method: wperp\nk: 2\noptions: {k: 3}", "r.yaml:2:4: k and options.k say the same; give one of them"),
    ("k: 3", f"r.yaml:1:4: k is given, but method wt has no option k; its options: {SHARED}"),
    (
        "dataset: ordered\ndataset_options: {low: 5, high: 4}",
        "r.yaml:2:24: dataset ordered: low is 5; it must be at most high, 4",
    ),
]


@pytest.mark.parametrize(("text", "message"), REFUSED_FILES)
def test_refused_files(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        from_text(text)
    assert str(caught.value).startswith(message)


def test_a_fault_of_the_file_is_told_from_one_of_a_flag() -> None:
    with pytest.raises(UsageError, match=r"^r\.yaml:1:8: width is 0; it must be at least 1$"):
        from_text("width: 0", depth=2)
    with pytest.raises(UsageError, match=r"^--width is 0; it must be at least 1$"):
        from_text("width: 64", width=0)
    assert from_text("width: 0", width=64).width == 64


def test_a_method_whose_plugin_is_broken_quotes_the_cause() -> None:
    plugins = Plugins()
    plugins.register(plugin(fg_models=[None]), Origin("torn", "3.1"))  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match=r"unknown method 'wt'.*set aside as broken: torn 3\.1: TypeError"):
        resolve(None, {}, Registry(plugins))


def test_numbers_are_those_of_yaml_1_2() -> None:
    recipe = from_text("epochs: 010\nseed: 0o10\nwidth: 1e3\nlr: 1")
    assert (recipe.epochs, recipe.seed, recipe.width, recipe.lr) == (10, 8, 1000, 1.0)


def test_section_options_are_what_the_targets_take() -> None:
    recipe = resolve(None, {"method": "wperp", "k": "rank", "width": 9, "options": {"pair": [3, 4]}}, REGISTRY)
    options = section_options(recipe, "method", REGISTRY)
    assert isinstance(options, SubspaceOptions)
    assert isinstance(options, EngineOptions)
    assert options.model_dump() == SubspaceOptions(k="rank", pair=(3, 4)).model_dump() | EngineOptions().model_dump()
    assert section_options(recipe, "model", REGISTRY) == NetOptions(width=9)
    assert section_options(recipe, "dataset", REGISTRY) == Options()


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        resolve(None, {}, REGISTRY).epochs = 3


def round_trip(recipe: Recipe) -> Recipe:
    return from_text(dump(recipe))


def test_dump_has_the_order_of_the_schema() -> None:
    keys = [line.partition(":")[0] for line in dump(resolve(None, {}, REGISTRY)).splitlines() if line[0] not in " -"]
    assert keys == list(Recipe.model_fields)


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"method": "wperp", "k": "rank"},
        {"method": "wperp", "options": {"scale": None}},
        {"model": "linear"},
        {"model": "linear", "model_options": {"bias": None}},
        {"lr": 1e-5},
        {"lr": 5e-324},
        {"seed": 2**63 - 1},
        *(
            {"method": "wperp", "options": {"label": text}}
            for text in ("a\x85b", "\u2028", " a\n\n b ", "\x00", "\ufeff")
        ),
    ],
)
def test_dump_resolves_to_the_same_recipe(overrides: dict[str, object]) -> None:
    recipe = resolve(None, overrides, REGISTRY)
    assert round_trip(recipe) == recipe


TRICKY = st.sampled_from(
    [
        "no",
        "1e-3",
        "010",
        "0o10",
        "12:30",
        "null",
        "~",
        ".nan",
        "1" * 200,
        "a: b",
        "a #b",
        "- a",
        "a\n b",
        "&a",
        "*a",
        "!a",
    ]
)


@given(st.text(st.characters(codec="utf-8")) | TRICKY, st.floats(min_value=0, allow_infinity=False), st.booleans())
def test_dump_keeps_any_text_and_number(label: str, scale: float, bias: bool) -> None:
    overrides = {"method": "wperp", "options": {"label": label, "scale": scale}, "bias": bias}
    recipe = resolve(None, overrides, REGISTRY)
    assert recipe.options["label"] == label
    assert round_trip(recipe) == recipe


@given(
    st.dictionaries(
        st.sampled_from([*Recipe.model_fields, "other"]),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text()
        | st.lists(st.integers(), max_size=2)
        | st.dictionaries(st.sampled_from(["k", "width", "solver", "x"]), st.integers() | st.text(), max_size=2),
        max_size=4,
    )
)
def test_any_overrides_are_resolved_or_refused_in_one_line(overrides: dict[str, object]) -> None:
    try:
        recipe = resolve(None, overrides, REGISTRY)
    except UsageError as error:
        message = str(error)
    else:
        message = ""
        assert round_trip(recipe) == recipe
    assert message.isprintable()
