import json
import os
from pathlib import Path

import pytest
from fake_runs import fake_run, fake_sweep, timing

from fgcli.errors import UsageError
from fgcli.report.trials import State, Trial, gather

SWEEP = """
grid:
  methods: [wt]
  seed: [0, 1, 2, 3, 4]
"""


def states(trials: tuple[Trial, ...]) -> dict[int, tuple[str, str]]:
    return {trial.seed: (trial.state.value, trial.reason) for trial in trials}


def test_a_sweep_has_every_trial_that_it_plans(tmp_path):
    folder = fake_sweep(
        tmp_path / "sweep",
        SWEEP,
        lambda trial: None if trial.axes["seed"] in (1, 4) else 0.5,
        finished=lambda trial: trial.axes["seed"] != 2,
    )
    rows = [{"trial": "wt-seed4", "attempt": n, "exit_code": 1, "last_lines": ["Traceback", "boom"]} for n in (1, 2)]
    rows += [{"trial": "wt-seed1", "exit_code": 1}, {"trial": "wt-seed1", "attempt": 2, "started_again": True}]
    (folder / "failed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "trials" / "wt-seed3" / "result.json").write_text("{")
    fake_run(folder / "trials" / "another")
    (source,), problems = gather([folder])
    found = states(source.trials)
    assert found[0] == ("finished", "")
    assert found[1] == ("not run yet", "")
    assert found[2] == ("unfinished", "stopped or still running, at step 16")
    assert found[3][0] == "unreadable"
    assert found[4] == ("failed", "failed with exit code 1: boom")
    assert [Path(problem.path).name for problem in problems] == ["wt-seed3", "another"]
    assert "cannot read result.json" in problems[0].reason
    assert problems[1].reason == "not among the trials of sweep.yaml"


def test_a_missing_trial_has_the_defaults_of_its_model_from_another_seed(tmp_path):
    folder = fake_sweep(tmp_path / "sweep", SWEEP, lambda trial: 0.5 if trial.axes["seed"] == 3 else None)
    (source,), _ = gather([folder])
    width = source.trials[3].keys["width"]
    assert width is not None
    assert [trial.keys["width"] for trial in source.trials] == [width] * 5
    assert [trial.keys["seed"] for trial in source.trials] == [0, 1, 2, 3, 4]


def test_a_trial_that_is_another_run_is_not_taken_for_it(tmp_path):
    folder = fake_sweep(tmp_path / "sweep", SWEEP)
    (folder / "trials" / "wt-seed0").rename(tmp_path / "there")
    (folder / "trials" / "wt-seed1").rename(folder / "trials" / "wt-seed0")
    (source,), _ = gather([folder])
    assert states(source.trials)[0] == ("unreadable", "its recipe has seed 1, the sweep 0")
    assert states(source.trials)[1] == ("not run yet", "")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("k: 5", "k: 6", "its recipe has k 5, the sweep 6"),
        ("solver: svd", "solver: ritz", "its recipe has options.solver 'svd', the sweep 'ritz'"),
        ("epochs: 4", "epochs: 8", "its recipe has epochs 4, the sweep 8"),
    ],
)
def test_a_run_of_another_recipe_is_not_taken_for_the_planned_one(tmp_path, old, new, said):
    text = """
base: {epochs: 4, model_options: {width: 8}}
grid:
  methods: [{label: a, method: wperp, k: 5, options: {solver: svd, coeffs: file}}]
  lr: [1, 2]
"""
    whole = {"width": lambda trial: 8, "model_options": lambda trial: {}, "options": lambda trial: OPENED}
    folder = fake_sweep(tmp_path / "sweep", text, **whole)
    (folder / "recipes").mkdir()
    for number in (1, 2):
        (folder / "recipes" / f"a-lr{number}-seed0.yaml").write_text("options: {solver: svd, coeffs: file}")
    (source,), problems = gather([folder])
    assert ([trial.state for trial in source.trials], problems) == ([State.FINISHED] * 2, [])
    sweep = folder / "sweep.yaml"
    sweep.write_text(sweep.read_text().replace(old, new))
    (source,), _ = gather([folder])
    assert [trial.reason for trial in source.trials] == [said] * 2


def test_a_row_of_timing_may_have_a_machine_of_its_own(tmp_path):
    folder = fake_sweep(tmp_path / "sweep", "grid: {methods: [wt], width: [8, 16]}", lambda trial: None)
    timing(folder, {("wt", 8): {}, ("wt", 16): {"device_name": "Another", "threads": 2}})
    (source,), _ = gather([folder])
    assert [trial.timing and trial.timing.machine for trial in source.trials] == [
        "A processor, 1 thread",
        "Another, 2 threads",
    ]


OPENED = {"solver": "svd", "coeffs": "what is in the file"}


def test_the_trials_of_a_half_written_sweep_stand_by_themselves(tmp_path):
    folder = fake_sweep(tmp_path / "sweep", SWEEP)
    (folder / "sweep.yaml").write_text("title: half")
    (source,), (problem,) = gather([folder])
    assert len(source.trials) == 5
    assert problem.reason == (
        "sweep.yaml has no grid: it is half written, or no sweep's; its trials stand by themselves"
    )


def damaged(path: Path, file: str, content: str) -> None:
    (fake_run(path) / file).write_text(content)


def edited(path: Path, **changes: object) -> None:
    run = fake_run(path)
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({**result, **changes}))


METRICS = '{"step": 8, "epoch": 1.0, "train_accuracy": 0.1, "test_accuracy": 0.1, "train_loss": 1, "test_loss": 1}\n'
BROKEN = {
    "no run: it has no recipe.yaml": lambda path: (path.mkdir(), (path / "recipe.yaml").mkdir()),
    "an empty folder": lambda path: path.mkdir(),
    "a file": lambda path: path.write_text("hello"),
    "recipe.yaml:1:2: not valid YAML": lambda path: damaged(path, "recipe.yaml", "{"),
    "recipe.yaml: width is 'wide'; it must be a whole number": lambda path: damaged(path, "recipe.yaml", "width: wide"),
    "recipe.yaml: colour": lambda path: damaged(path, "recipe.yaml", "colour: red"),
    "cannot read result.json": lambda path: damaged(path, "result.json", '{"schema": 1, "steps"'),
    "result.json is none of fg's": lambda path: damaged(path, "result.json", '{"accuracy": 0.5}'),
    "result.json has no steps": lambda path: damaged(path, "result.json", json.dumps(
        {"schema": 1, "train_accuracy": 1, "test_accuracy": 1, "train_loss": 1, "test_loss": 1})),
    "result.json has 'high' as test_accuracy": lambda path: edited(path, test_accuracy="high"),
    "result.json has true as test_accuracy": lambda path: edited(path, test_accuracy=True),
    "result.json has 1000": lambda path: edited(path, wall_s=10**400),
    "NaN is not JSON": lambda path: edited(path, test_accuracy=float("nan")),
    "metrics.jsonl, line 1: not such a row": lambda path: damaged(path, "metrics.jsonl", "noise\n"),
    "metrics.jsonl has no wall_s": lambda path: damaged(path, "metrics.jsonl", METRICS),
    "diagnostics.jsonl: a row without layers": lambda path: damaged(
        path, "diagnostics.jsonl", '{"step": 0, "epoch": 0}\n'),
    "diagnostics.jsonl: an overlap that is no curve over k": lambda path: damaged(
        path, "diagnostics.jsonl", '{"step": 0, "epoch": 0, "layers": {"a": {"overlap": {"k": [1]}}}}\n'),
}  # fmt: skip


def test_what_cannot_be_read_is_listed_with_the_reason_and_the_rest_is_reported(tmp_path):
    runs = tmp_path / "runs"
    fake_run(runs / "good")
    fake_run(runs / "running", finished=False)
    with (runs / "running" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 24, "ep')  # torn: it is being written
    for number, make in enumerate(BROKEN.values()):
        make(runs / f"{number:02d}")
    (source,), problems = gather([runs])
    assert [(trial.name, trial.state) for trial in source.trials] == [
        ("good", State.FINISHED),
        ("running", State.RUNNING),
    ]
    reasons = [problem.reason for problem in problems]
    assert len(reasons) == len(BROKEN)
    for said, reason in zip(BROKEN, reasons, strict=True):
        assert ("no run" if said in ("a file", "an empty folder") else said) in reason


def test_a_pipe_in_a_run_does_not_hang(tmp_path):
    run = fake_run(tmp_path / "run")
    (run / "metrics.jsonl").unlink()
    os.mkfifo(run / "metrics.jsonl")
    with pytest.raises(UsageError, match=r"nothing to report: .*metrics\.jsonl: not a regular file"):
        gather([run])


def test_a_run_without_its_environment_is_reported_and_that_is_said(tmp_path):
    run = fake_run(tmp_path / "run")
    (run / "environment.json").unlink()
    (source,), (problem,) = gather([run])
    assert source.trials[0].run is not None
    assert source.trials[0].run.machine == "unknown device"
    assert problem.reason == "cannot read environment.json: No such file or directory; reported without it"


def test_what_is_given_twice_counts_once(tmp_path):
    fake_run(tmp_path / "runs" / "a")
    fake_run(tmp_path / "runs" / "b", seed=1)
    sources, problems = gather([tmp_path / "runs", tmp_path / "runs" / "a", tmp_path / "runs"])
    assert [trial.name for source in sources for trial in source.trials] == ["a", "b"]
    assert not problems
    sweep = fake_sweep(tmp_path / "sweep", SWEEP)
    for paths in ([sweep, sweep / "trials"], [sweep / "trials", sweep / "trials" / "wt-seed0", sweep]):
        sources, problems = gather(paths)
        assert [len(source.trials) for source in sources] == [5]
        assert not problems


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "here does not exist"),
        (lambda path: path.mkdir(), "here holds no run and no sweep"),
        (lambda path: path.write_text(""), "nothing to report: .*here: no run"),
        (lambda path: (path.mkdir(), (path / "notes.txt").write_text("")), r"nothing to report: .*notes\.txt: no run"),
        (
            lambda path: (path.mkdir(), (path / "sweep.yaml").write_text("grid: 1")),
            r"nothing to report: .*sweep\.yaml:1:7",
        ),
    ],
)
def test_nothing_to_report_is_one_line(tmp_path, make, said):
    make(tmp_path / "here")
    with pytest.raises(UsageError, match=said):
        gather([tmp_path / "here"])


def test_links_in_a_circle_are_passed_over(tmp_path):
    fake_run(tmp_path / "run")
    (tmp_path / "circle").symlink_to("circle")
    sources, _ = gather([tmp_path])
    assert len(sources) == 1
