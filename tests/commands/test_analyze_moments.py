import json
from pathlib import Path

import pytest
from tiny_runs import FLAGS, fg, run

from fgcli import LinearMap

TRAIN = [flag for flag in FLAGS if flag not in ("--epochs", "4")]
METRICS = {
    "bias", "variance", "mse", "covariance_norm", "covariance_rms", "cosine", "cosine_squared", "norm_ratio",
    "effective_rank", "trace",
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory, shared_cache):
    """A run of wt and one of wperp with k = 3."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FG_CACHE_DIR", str(shared_cache))
        run(folder / "wt")
        run(folder / "wperp", method="wperp", k=3, options={"refresh": 4})
    return folder


def found(*arguments):
    done = fg("analyze-moments", *map(str, arguments), "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)["moments"]


def refusal(*arguments):
    done = fg("analyze-moments", *map(str, arguments))
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    assert done.stderr.startswith("fg: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_every_metric_of_every_layer_exact_and_drawn(trained):
    (one,) = found(trained / "wt", "--batches", 2, "--draws", 40)
    assert (one["method"], one["trained_by"], one["epoch"]) == ("wt", "wt", 4)
    assert [layer["layer"] for layer in one["layers"]] == ["hidden1", "hidden2", "output"]
    for layer in one["layers"]:
        assert layer["monte_carlo"].keys() == METRICS
        assert layer["exact"].keys() == METRICS - {"cosine"} - (
            {"cosine_squared"} if layer["layer"] != "output" else set()
        )
        assert max(abs(z) for z in layer["z"].values()) < 5
        assert layer["exact"]["variance"]["standard_error"] > 0


def test_several_methods_at_the_same_states(trained):
    methods = ["--method", "wt", "--method", "wperp:k=2,solver=svd"]
    moments = found(trained / "wt", trained / "wperp", *methods, "--batches", 1, "--draws", 0)
    assert [(one["trained_by"], one["method"]) for one in moments] == [
        ("wt", "wt"), ("wt", "wperp:k=2,solver=svd"), ("wperp", "wt"), ("wperp", "wperp:k=2,solver=svd"),
    ]  # fmt: skip
    for one in moments:
        assert one["layers"][0]["monte_carlo"] == {}
    assert moments[1]["layers"][0]["exact"]["trace"]["mean"] == pytest.approx(2, abs=0.3)


def test_each_method_on_its_own_trajectory(trained):
    runs = [trained / "wt", trained / "wperp"]
    methods = ["--method", "wt", "--method", "wperp:k=3,refresh=4"]
    moments = found(*runs, *methods, "--own-trajectory", "--batches", 1, "--draws", 0)
    assert [(one["trained_by"], one["method"]) for one in moments] == [("wt", "wt"), ("wperp", "wperp:k=3,refresh=4")]
    of_runs = found(*runs, "--own-trajectory", "--batches", 1, "--draws", 0)
    assert [one["layers"] for one in of_runs] == [one["layers"] for one in moments]


def test_own_trajectory_trains_each_method_where_no_run_is_given(workplace):
    methods = ["--method", "wt", "--method", "wperp:k=3"]
    moments = found(
        *TRAIN, *methods, "--own-trajectory", "--epochs", "1,2", "--out", "new", "--batches", 1, "--draws", 0
    )
    assert [(one["trained_by"], one["epoch"]) for one in moments] == [("wt", 1), ("wt", 2), ("wperp", 1), ("wperp", 2)]
    assert {path.name for path in Path("new").iterdir()} == {"wt", "wperp-k=3"}


def test_methods_at_the_states_of_the_first_where_no_run_is_given():
    methods = ["--method", "wt", "--method", "activation-perturbation"]
    moments = found(*TRAIN, *methods, "--epochs", "1", "--batches", 1, "--draws", 0)
    assert [(one["trained_by"], one["method"]) for one in moments] == [("wt", "wt"), ("wt", "activation-perturbation")]


def test_own_method_has_the_warm_start_of_the_run(trained):
    """With refresh above the step, the tracked space is the checkpoint's, and not what a cold start would find."""
    run(trained / "warm", method="wperp", k=3, options={"refresh": 50}, lr=0.1)
    own = found(trained / "warm", "--batches", 1, "--draws", 0)
    same = found(trained / "warm", "--method", "wperp:k=3,refresh=50", "--batches", 1, "--draws", 0)
    cold = found(trained / "warm", "--method", "wperp:k=3,refresh=49", "--batches", 1, "--draws", 0)
    assert own[0]["layers"] == same[0]["layers"]
    assert own[0]["layers"] != cold[0]["layers"]


def test_weight_space_takes_any_estimator(trained):
    methods = ["--method", "backprop", "--method", "weight-perturbation", "--method", "wt"]
    moments = found(trained / "wt", *methods, "--space", "weights", "--draws", 8, "--batches", 1)
    assert [layer["layer"] for layer in moments[0]["layers"]] == ["hidden1.weight", "hidden2.weight", "output.weight"]
    assert moments[0]["layers"][0]["monte_carlo"]["cosine"]["mean"] == pytest.approx(1)
    assert moments[1]["layers"][0]["monte_carlo"]["cosine"]["mean"] < 0.9


def test_table_shows_both_and_z(trained):
    shown = fg("analyze-moments", str(trained / "wt"), "--batches", "2", "--draws", "8").stdout
    assert "wt, at wt of width 8 at epoch 4" in shown
    for part in ("exact", "Monte Carlo", "z", "bias", "variance", "‖C - I‖_F/d", "effective rank", "±"):
        assert part in shown


def test_a_wrong_covariance_is_said_in_words(trained, monkeypatch):
    from fgcli.methods.transpose import Transpose

    right = Transpose.linearize

    def wrong(self, layer, upstream, prepared):
        linear = right(self, layer, upstream, prepared)
        return LinearMap(  # a draw has one column
            linear.noise_dim, lambda z: linear.map(z) * (1.2 if z.dim() == 3 and z.shape[2] > 1 else 1)
        )

    monkeypatch.setattr(Transpose, "linearize", wrong)
    shown = fg("analyze-moments", str(trained / "wt"), "--draws", "64").stdout.replace("\n", " ")
    assert "standard errors off its exact value: the guesses are not what their covariance says" in shown


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--method wperb", "--method: unknown method 'wperb'; did you mean 'wperp'?"),
        ("--method wperp:solvr=svd", "unknown option 'solvr' of method wperp; did you mean 'solver'?"),
        ("--method wperp:k", "--method wperp: is 'k'; it must be key=value"),
        ("--method wperp:k=1,solver", "--method wperp: is 'solver'; it must be key=value"),
        ("--method wperp:k=9", "--method wperp:k=9: k is 9; it must be at most the width, 8"),
        ("--method backprop", "--method backprop guesses no gradient of a layer's output; use --space weights"),
        ("--draws 3", "--draws is 3; it must be at least 8, or 0 for exact moments alone"),
        ("--space weights --draws 0", "--draws is 0; it must be at least 8"),
        ("--space heights", "--space is heights; it must be activations or weights"),
        ("--batches 0", "--batches is 0"),
        ("--own-trajectory --method wpre", "--own-trajectory: no run was trained by wpre with these options"),
        ("--lr 0.1", "--lr says what to train"),
    ],
)
def test_bad_input(trained, flags, said):
    assert said in refusal(trained / "wt", *flags.split())


PLUGIN = """
from fgcli import Entry, GuessMethod, LinearMap, hookimpl

FG_CONTRACT = 2

class Doubled(GuessMethod):
    needs = "nothing"
    def __init__(self, options): pass
    def linearize(self, layer, upstream, prepared): return LinearMap(layer.dim, lambda z: 2 * z)

@hookimpl
def fg_guess_methods():
    return [Entry("doubled", "doubled_method:Doubled", "Twice the noise.")]
"""


def test_a_method_of_ones_own_is_measured_like_the_built_in_ones(trained):
    Path("doubled_method.py").write_text(PLUGIN)
    flags = ["--plugin", "doubled_method.py", "--method", "doubled", "--method", "fgcli:wt"]
    moments = found(trained / "wt", *flags, "--batches", 1, "--draws", 16)
    assert [one["method"] for one in moments] == ["doubled", "fgcli:wt"]
    for layer in moments[0]["layers"]:
        d = {"hidden1": 8, "hidden2": 8, "output": 10}[layer["layer"]]
        assert layer["exact"]["trace"]["mean"] == pytest.approx(4 * d)
        assert layer["exact"]["covariance_rms"]["mean"] == pytest.approx(3 * d**0.5 / d)
        assert max(abs(z) for z in layer["z"].values()) < 5


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        ("1 // 0", 2, "site 'hidden1': map raised ZeroDivisionError"),
        ("z + 1", 2, "site 'hidden1': map is not linear"),
        ("z * float('nan')", 1, "hidden1 is nan, not a number"),
    ],
)
def test_a_method_that_misbehaves_is_named(trained, fault, code, said):
    name = f"faulty{len(fault)}"
    Path(f"{name}.py").write_text(
        PLUGIN.replace("2 * z", fault).replace("doubled", name).replace(f"{name}_method", name)
    )
    done = fg("analyze-moments", str(trained / "wt"), "--plugin", f"{name}.py", "--method", name, "--batches", "1")
    assert done.exit_code == code
    assert done.stderr.startswith(f"fg: method {name} ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
