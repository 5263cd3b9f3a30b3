"""`fgcli bench` with an executor that trains nothing: which trials are run, how often, and what is left behind."""

import json
import os
from pathlib import Path

import pytest
from tiny_runs import fg

from fgcli.runs.sweep_directory import Submission, SweepDirectory
from fgcli.sweep.read import read_sweep

ALL = ["backprop-seed0", "wt-seed0", "backprop-seed1", "wt-seed1"]
D = Path("d")


def started() -> list[str]:
    """The trials that were started since the last call, in order."""
    file = Path("started.txt")
    lines = file.read_text().splitlines() if file.exists() else []
    file.unlink(missing_ok=True)
    return lines


def test_everything_once_and_nothing_again(stubbed):
    result = stubbed()
    assert result.exit_code == 0, result.stderr
    assert started() == [f"{name} new" for name in ALL]
    assert sorted(path.name for path in (D / "trials").iterdir()) == sorted(ALL)
    assert "finished wt-seed1: accuracy 0.500 train 0.400 test" in result.stdout
    assert "4 of 4 trials are finished" in result.stdout
    assert stubbed().exit_code == 0
    assert started() == []


@pytest.mark.parametrize("flags", [[], ["--dry-run"], ["--only", "wt-seed1"]])
def test_what_cannot_start_at_all_is_said_before_anything_is_measured_or_written(flags: list[str]) -> None:
    Path("sweep.yaml").write_text("base: {dataset: absent.csv}\ngrid: {methods: [backprop, wt], seed: [0, 1]}\n")
    done = fg("bench", "sweep.yaml", "--out", "d", *flags)
    named = "wt-seed1" if flags[1:] else "backprop-seed0 and 1 more"
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == f"fg: {named}: absent.csv cannot be read: No such file or directory\n"
    assert not D.exists()


def test_every_trial_is_told_of_the_sinks_that_are_known(stubbed):
    result = stubbed("--sink", "tracke")
    assert (result.exit_code, "did you mean 'tracker'?" in result.stderr) == (2, True)
    assert not D.exists()
    flags = ["--sink", "tracker", "--sink-option", "tracker.times=2"]
    assert stubbed(*flags).exit_code == 0
    assert Path("sinks.txt").read_text().splitlines() == [" ".join(flags)] * 4


def test_a_trial_has_its_threads_whatever_runs_beside_it(stubbed):
    stubbed("--limit", "1")
    assert read_sweep(D / "sweep.yaml")[0].base["threads"] == 1
    assert "threads: 1\n" in (D / "recipes" / "backprop-seed0.yaml").read_text()
    result = stubbed("--threads", "2")
    assert (result.exit_code, "d holds another sweep: threads of trial backprop-seed0 differs" in result.stderr) == (
        2,
        True,
    )


def test_what_failed_is_tried_once_more_then_reported_and_the_others_go_on(stubbed):
    result = stubbed("--executor-option", "fails=wt-seed0")
    assert result.exit_code == 1
    assert started() == [*(f"{name} new" for name in ALL), "wt-seed0 new"]
    assert "failed wt-seed0 (exit code 1): fg: the loss is not finite; it is tried once more" in result.stdout
    assert "fg: trial wt-seed0 failed (exit code 1); its log: d/logs/wt-seed0.log" in result.stderr
    assert result.stderr.splitlines()[1:3] == ["    first", "    fg: the loss is not finite"]
    assert result.stderr.splitlines()[-1] == "fg: 1 of the trials failed; what is in d stays"
    rows = [json.loads(line) for line in (D / "failed.jsonl").read_text().splitlines()]
    lines = ["first", "fg: the loss is not finite"]  # of that attempt alone
    first, second = ({"trial": "wt-seed0", "attempt": n, "exit_code": 1, "last_lines": lines} for n in (1, 2))
    assert rows == [first, {"trial": "wt-seed0", "attempt": 2, "started_again": True}, second]
    assert "3 of 4 trials are finished" in result.stdout
    assert stubbed().exit_code == 0
    assert started() == ["wt-seed0 resumed"]
    assert "started_again" in (D / "failed.jsonl").read_text().splitlines()[-1]


def test_a_second_attempt_may_succeed(stubbed):
    assert stubbed("--executor-option", "fails=wt-seed0", "--executor-option", "times=1").exit_code == 0


def test_an_unfinished_trial_is_resumed_and_a_folder_without_a_recipe_begun_again(stubbed):
    stubbed("--limit", "0")
    (D / "trials" / "wt-seed0").mkdir()
    (D / "trials" / "wt-seed0" / "recipe.yaml").touch()
    (D / "trials" / "wt-seed1" / "checkpoints").mkdir(parents=True)
    assert stubbed("--only", "W̃ᵀ").exit_code == 0
    assert started() == ["wt-seed0 resumed", "wt-seed1 new"]
    (D / "trials" / "wt-seed0" / "result.json").write_text("")  # damaged: the run has no result
    result = stubbed("--only", "W̃ᵀ")
    assert (started(), "2 of 4 trials are finished" in result.stdout) == (["wt-seed0 resumed"], True)


def test_only_limit_and_seeds_choose(stubbed):
    stubbed("--only", "*-seed1", "--limit", "1")
    assert started() == ["backprop-seed1 new"]
    stubbed("--only", "*-seed1", "--only", "W̃ᵀ", "--limit", "2")
    assert started() == ["wt-seed0 new", "wt-seed1 new"]
    stubbed("--seeds", "7,5", "--only", "backprop")
    assert started() == ["backprop-seed5 new", "backprop-seed7 new"]
    assert read_sweep(D / "sweep.yaml")[0].grid.seed == [0, 1, 5, 7]  # of the first calls, too: they said nothing else
    stubbed("--seeds", "0")
    assert started() == ["backprop-seed0 new"]


def test_seeds_replace_those_of_the_recipe(stubbed):
    stubbed("--seeds", "3")
    assert read_sweep(D / "sweep.yaml")[0].grid.seed == [3]
    assert [path.name for path in sorted((D / "trials").iterdir())] == ["backprop-seed3", "wt-seed3"]


def test_a_sweep_may_grow_but_not_change(stubbed):
    sweep = Path("sweep.yaml")
    text = sweep.read_text(encoding="utf-8")
    stubbed()
    sweep.write_text(text.replace("[backprop,", "[backprop, wpre,") + "title: More\n", encoding="utf-8")
    started()
    assert stubbed().exit_code == 0
    assert started() == ["wpre-seed0 new", "wpre-seed1 new"]
    sweep.write_text(text, encoding="utf-8")
    result = stubbed()
    assert (result.exit_code, result.stderr) == (
        2,
        "fg: --out d holds another sweep: trial wpre-seed0 there is not in the recipe; give another folder\n",
    )
    sweep.write_text(
        text.replace("epochs: 30", "epochs: 3").replace("[backprop,", "[backprop, wpre,"), encoding="utf-8"
    )
    assert "epochs of trial backprop-seed0 differs" in stubbed().stderr


def test_the_same_search_for_every_method(stubbed):
    sweep = Path("sweep.yaml")
    text = sweep.read_text(encoding="utf-8").replace("  lr: 0.01\n", "")
    sweep.write_text(text + "tune: {lr: [0.01, 0.02, 0.1], seed: [8, 9], epochs: 2}\n", encoding="utf-8")
    assert stubbed("--limit", "1").exit_code == 0
    assert len(started()) == 3 * 2 + 1  # the search of what is run now alone
    result = stubbed()
    assert result.exit_code == 0, result.stderr
    assert len(started()) == 3 * 2 + 3
    rows = json.loads((D / "tuned.json").read_text())["rows"]
    assert [(row["label"], row["lr"]) for row in rows] == [("backprop", 0.1), ("W̃ᵀ", 0.02)]
    assert rows[1]["candidates"][1] == {"lr": 0.02, "mean": pytest.approx(0.0085)}
    assert "lr: 0.02\n" in (D / "recipes" / "wt-seed1.yaml").read_text()
    assert "epochs: 2\n" in (D / "recipes" / "tuning-wt-lr0.02-seed8.yaml").read_text()
    assert "epochs: 30\n" in (D / "recipes" / "wt-seed1.yaml").read_text()
    assert "backprop: lr 0.1, at the edge of what was tried" in result.stdout
    assert "W̃ᵀ: lr 0.02\n" in result.stdout
    stubbed("--only", "backprop")
    assert {row["label"] for row in json.loads((D / "tuned.json").read_text())["rows"]} == {"backprop", "W̃ᵀ"}
    assert len(list((D / "trials").iterdir())) == 4


def test_a_candidate_that_fails_is_out_and_a_method_without_any_is_a_failure(stubbed):
    sweep = Path("sweep.yaml")
    text = sweep.read_text(encoding="utf-8").replace("  lr: 0.01\n", "")
    sweep.write_text(text + "tune: {lr: [0.02, 0.1]}\n", encoding="utf-8")
    result = stubbed("--executor-option", "fails=lr0.1")
    assert result.exit_code == 0
    assert [row["lr"] for row in json.loads((D / "tuned.json").read_text())["rows"]] == [0.02, 0.02]
    started()
    result = stubbed("--out", "e", "--executor-option", "fails=wt-lr")
    assert result.exit_code == 1
    assert "fg: trial wt-seed1 failed" in result.stderr
    assert "every learning rate of the search failed" in result.stderr
    assert len(list(Path("e/trials").iterdir())) == 2


def test_one_bench_a_folder(stubbed):
    with SweepDirectory(D).locked():
        result = stubbed()
    assert (result.exit_code, started()) == (2, [])
    assert f"fg: d is in use by process {os.getpid()} on " in result.stderr
    assert stubbed().exit_code == 0


def test_an_interrupted_bench_goes_on(stubbed):
    assert stubbed("--executor-option", "stops=true").exit_code == 130
    assert started() == ["backprop-seed0 new"]
    assert stubbed().exit_code == 0
    assert started() == [f"{name} new" for name in ALL[1:]]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--only", "wq"],
            "--only is 'wq', which no trial is called; labels: backprop, W̃ᵀ; a name is",
        ),
        (["--seeds", "1,x"], "--seeds is '1,x'; it must be whole numbers from 0, each once: 0,1,2 or 0-4"),
        (["--seeds", "1,1"], "--seeds is '1,1'; it must be whole numbers from 0, each once: 0,1,2 or 0-4"),
        (
            ["--executor-option", "fail=x"],
            "--executor-option: unknown option 'fail' of executor stub;",
        ),
        (["--executor-option", "times=x"], "--executor-option times is 'x'; it must be a whole number"),
        (["--executor", "stubb"], "--executor: unknown executor 'stubb'; did you mean 'stub'? known executors: local"),
        (["--jobs", "2"], "--jobs is given, but executor stub has no option jobs; leave it out"),
        (["--executor", "local", "--jobs", "99999"], "--jobs 99999 with 1 thread a trial needs 99999 cores"),
    ],
)
def test_refused_before_anything_is_written(stubbed, flags, message):
    result = stubbed(*flags)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"fg: {message}")
    assert not D.exists()


@pytest.mark.parametrize(
    ("old", "new", "flags", "message"),
    [
        (
            "  seed: [0, 1]\n",
            "  seed: [0, 1]\nviews: [{kind: curve, title: T, y: train_loss, where: {seed: 0}}]\n",
            ["--seeds", "5"],
            "--seeds is '5': sweep.yaml:13:62: unknown value '0' of seed; known values: 5\n",
        ),
        (
            "  seed: [0, 1]\n",
            "  threads: [1, 2]\n",
            ["--threads", "1"],
            "--threads is given, but grid of the recipe has threads; give one of them\n",
        ),
        (
            "method: wt",
            "method: wt, threads: 2",
            ["--threads", "1"],
            "--threads is given, but method W̃ᵀ of the recipe has threads; give one of them\n",
        ),
    ],
)
def test_flags_must_suit_the_recipe(stubbed, old, new, flags, message):
    sweep = Path("sweep.yaml")
    sweep.write_text(sweep.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    result = stubbed(*flags)
    assert (result.exit_code, result.stderr) == (2, f"fg: {message}")
    assert not D.exists()


def test_a_folder_that_holds_something_else_is_refused(stubbed):
    D.mkdir()
    (D / "mine.txt").touch()
    assert stubbed().stderr == "fg: --out d is not an empty folder, and holds no sweep; give another one\n"
    assert [path.name for path in D.iterdir()] == ["mine.txt"]


def test_runs_are_for_train_and_sweeps_for_bench():
    Path("run.yaml").write_text("method: wt\n")
    result = fg("bench", "run.yaml")
    assert result.exit_code == 2
    assert "run.yaml:1:1: this is the recipe of one run" in result.stderr
    result = fg("train", "--recipe", "sweep.yaml")
    assert (result.exit_code, "this is a sweep of many runs; run it with: fgcli bench sweep.yaml" in result.stderr) == (
        2,
        True,
    )
    assert "RECIPE: unknown recipe 'tabel3'; did you mean 'table3'" in fg("bench", "tabel3").stderr


def test_the_executor_may_stand_in_the_recipe_and_flags_go_over_it(stub):
    sweep = Path("sweep.yaml")
    more = "executor: stub\nexecutor_options: {fails: wt, times: 1}\n"
    sweep.write_text(sweep.read_text(encoding="utf-8") + more, encoding="utf-8")
    bench = ["bench", "sweep.yaml", "--out", "d", "--plugin", str(stub)]
    assert fg(*bench, "--executor-option", "times=9", "--only", "W̃ᵀ").exit_code == 1
    started()
    assert fg(*bench).exit_code == 0
    first = ["backprop-seed0 new", "wt-seed0 resumed", "backprop-seed1 new", "wt-seed1 resumed"]
    assert started() == [*first, "wt-seed0 new", "wt-seed1 new"]
    sweep.write_text(sweep.read_text(encoding="utf-8").replace("fails: wt", "fial: wt"), encoding="utf-8")
    message = "fg: sweep.yaml:14:19: unknown option 'fial' of executor stub; did you mean 'fails'?"
    assert fg(*bench).stderr.startswith(message)
    assert fg(*bench, "--executor", "local", "--dry-run").exit_code == 0  # whose options are others


def test_trials_that_another_executor_has_under_way_are_left_to_it(stubbed):
    assert stubbed("--limit", "0").exit_code == 0
    trial = {"name": "wt-seed0", "run_dir": "d/trials/wt-seed0"}
    SweepDirectory(D).submit(Submission("slurm", "fg-d-1", (trial,), "7"))
    result = stubbed()
    assert (result.exit_code, started()) == (2, [])
    assert "1 trials were handed to executor slurm (job 7) and may be under way; go on with --executor" in result.stderr
    SweepDirectory(D).forget(SweepDirectory(D).submissions()[0])
    assert stubbed().exit_code == 0
