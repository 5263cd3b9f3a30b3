"""What `--executor slurm` decides, with SLURM's answers given. The real one is in tests/cluster."""

import math
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_runs import fg

from fgcli.bench import slurm, slurm_commands, task
from fgcli.bench.executor import Detached, Trial
from fgcli.bench.options import SlurmOptions
from fgcli.bench.slurm import SlurmExecutor
from fgcli.bench.slurm_commands import Task
from fgcli.errors import RunError, UsageError
from fgcli.extend.explain import checked_options
from fgcli.recipe import parse_assignments
from fgcli.runs.run_directory import RunDirectory
from fgcli.runs.sweep_directory import SweepDirectory

D = Path("d")


def a_trial(name: str, code: str = "", threads: int = 1) -> Trial:
    run = D / "trials" / name
    return Trial(name, (sys.executable, "-c", code), run, D / "logs" / f"{name}.log", threads)


class Fake:
    """SLURM, of which tests say how tasks are."""

    def __init__(self) -> None:
        self.scripts: list[tuple[str, list[str]]] = []
        self.states: dict[int, list[tuple[str, int]]] = {}
        """By index: what squeue says, each time once, the last one for ever."""
        self.requeued: list[str] = []

    def submit(self, script: str, arguments: list[str]) -> str:
        self.scripts.append((script, arguments))
        return str(6 + len(self.scripts))

    def tasks(self, names: list[str]) -> dict[tuple[str, int], Task]:
        found: dict[tuple[str, int], Task] = {}
        for name in names:
            for index, states in self.states.items():
                state, code = states.pop(0) if len(states) > 1 else states[0]
                if state:
                    found[name, index] = Task(f"7_{index}", state, code)
        return found

    def requeue(self, one: Task) -> bool:
        self.requeued.append(one.id)
        return True


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    fake = Fake()
    monkeypatch.setattr(slurm, "POLL_S", 0.0)
    for name in ("submit", "tasks", "requeue"):
        monkeypatch.setattr(slurm_commands, name, getattr(fake, name))
    monkeypatch.setattr(slurm_commands, "array_size", lambda: 2)
    for folder in (D / "trials", D / "logs"):
        folder.mkdir(parents=True)
    return fake


def outcomes(trials: list[Trial], **options: object) -> Iterator[tuple[str, int]]:
    executor = SlurmExecutor(SlurmOptions.model_validate({"poll": 1e-9, **options}))
    assert executor.attach(SweepDirectory(D)) == frozenset()
    for outcome in executor.run(trials):
        yield outcome.trial.name, outcome.exit_code


def test_how_tasks_end(fake: Fake) -> None:
    run = [("RUNNING", 0)]
    fake.states = {
        0: [*run, ("FAILED", 3)],
        1: [*run, ("FAILED", 137), ("FAILED", 137), *run, ("", 0)],  # queued again, then forgotten
    }
    assert dict(outcomes([a_trial("fails"), a_trial("killed")])) == {"fails": 3, "killed": -9}
    assert fake.requeued == ["7_1"]


def test_a_result_counts_whatever_squeue_says(fake: Fake) -> None:
    fake.states = {0: [("FAILED", 3)]}
    done = a_trial("done")
    done.run_dir.mkdir()
    RunDirectory(done.run_dir).result_file.write_text("{}")
    assert dict(outcomes([done])) == {"done": 0}


def test_what_was_cancelled_is_not_submitted_again(fake: Fake) -> None:
    fake.states = {0: [("CANCELLED", -15)], 1: [("FAILED", 2)]}
    found: list[tuple[str, int]] = []
    with pytest.raises(RunError, match=r"^stopped: 1 trials were cancelled in SLURM \(one is one\); the same command"):
        found.extend(outcomes([a_trial("one"), a_trial("two")]))
    assert fake.requeued == []


def test_arrays_of_equal_threads_no_larger_than_allowed_and_bounded_together(fake: Fake) -> None:
    trials = [a_trial(f"t{number}", threads=1 + number // 3) for number in range(5)]
    options: dict[str, object] = {"jobs": 2, "partition": "p", "time": 90, "memory": "4G", "gres": "gpu:1"}
    options["lines"] = ["#SBATCH -A me", "module load x"]
    with pytest.raises(Detached, match=r"^5 trials are with SLURM, jobs 7, 8, 9$"):
        list(outcomes(trials, detach=True, **options))
    given = [" ".join(arguments) for _, arguments in fake.scripts]
    assert [[word for word in line.split() if word[:7] in ("--cpus-", "--array", "--depen")] for line in given] == [
        ["--cpus-per-task=1", "--array=0-1%2"],
        ["--cpus-per-task=1", "--array=0-0%2", "--dependency=afterany:7"],
        ["--cpus-per-task=2", "--array=0-1%2", "--dependency=afterany:8"],
    ]
    assert "--partition=p --time=90 --mem=4G --gres=gpu:1 --signal=B:USR1@120 --requeue" in given[0]
    lines = fake.scripts[0][0].splitlines()
    assert lines[:3] == ["#!/bin/sh", "#SBATCH -A me", "module load x"]
    assert lines[3].startswith(f"exec {sys.executable} -m fgcli.bench.task /")
    recorded = SweepDirectory(D).submissions()
    assert sorted(one.job or "" for one in recorded) == ["7", "8", "9"]
    assert task.read(recorded[0].trials[0]) in trials

    # A later bench waits for what is live, and forgets what is not.
    fake.states = {0: [("RUNNING", 0)]}
    executor = SlurmExecutor(SlurmOptions())
    assert executor.attach(SweepDirectory(D)) == {one.trials[0]["name"] for one in recorded}
    fake.states = {}
    assert executor.attach(SweepDirectory(D)) == frozenset()
    assert SweepDirectory(D).submissions() == []


@pytest.mark.parametrize(
    ("code", "starts", "again"),
    [
        ("raise SystemExit(138)", 0, True),
        ("raise SystemExit(138)", 3, False),
        ("import os; os.mkdir('d/trials/t/checkpoints/step-2'); raise SystemExit(138)", 3, True),
        ("import os; os.kill(os.getpid(), 9)", 2, True),
        ("raise SystemExit(1)", 0, False),
    ],
)
def test_a_task_is_queued_again_while_it_gets_on(fake: Fake, code: str, starts: int, again: bool) -> None:
    (D / "trials/t/checkpoints").mkdir(parents=True)
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP)}
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        code_found = task.run(a_trial("t", code), starts, (sys.executable, "-c", "open('queued', 'w')"))
    finally:
        for number, handler in {**before, signal.SIGINT: interrupt}.items():
            signal.signal(number, handler)
    assert code_found in (138, 137, 1)
    assert Path("queued").exists() is again


def test_a_task_goes_on_with_what_was_begun() -> None:
    trial = Trial("t", ("new",), Path("run"), Path("log"), 1, ("again",))
    assert trial.command_now() == ("new",)
    Path("run").mkdir()
    Path("run/recipe.yaml").touch()
    assert trial.command_now() == ("again",)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("1:30", 90),
        ("2:00:00", 7200),
        ("1-2", 93600),
        ("1-0:30", 88200),
        ("infinite", None),
        ("n/a", None),
    ],
)
def test_time_limits(text: str, seconds: float | None) -> None:
    assert slurm_commands.seconds(text) == seconds


@pytest.mark.parametrize(
    ("options", "longest", "fixes"),
    [
        (["time=2", "lead=90"], math.inf, ["time=3", "lead=60"]),
        (["time=1"], math.inf, ["time=3"]),
        (["time=1:30", "lead=100"], 120, ["lead=30"]),
        (["time=1"], 60, []),
        (["time=30:00:00"], 86400, ["time=1440"]),
    ],
)
def test_a_time_limit_is_refused_with_values_that_are_accepted(
    monkeypatch: pytest.MonkeyPatch, options: list[str], longest: float, fixes: list[str]
) -> None:
    monkeypatch.setattr(slurm_commands, "require", lambda: None)
    monkeypatch.setattr(slurm_commands, "partition", lambda _: (4, None, longest))
    monkeypatch.setattr(slurm_commands, "check", lambda *_: None)

    def place(assignments: list[str]) -> None:
        SlurmExecutor(SlurmOptions.model_validate(parse_assignments(assignments, "--executor-option"))).place(1)

    with pytest.raises(UsageError) as refused:
        place(options)
    given = str(refused.value).rpartition("; give ")[2]
    assert re.findall(r"\w+=\S+", given) == fixes, given
    for fix in fixes:
        place([*(one for one in options if one.partition("=")[0] != fix.partition("=")[0]), fix])


def test_a_time_limit_or_partition_of_the_environment_is_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []

    def partition(name: str | None) -> tuple[int, float | None, float]:
        asked.append(name)
        return 4, None, math.inf

    monkeypatch.setattr(slurm_commands, "require", lambda: None)
    monkeypatch.setattr(slurm_commands, "partition", partition)
    monkeypatch.setattr(slurm_commands, "check", lambda *_: None)
    monkeypatch.setenv("SBATCH_PARTITION", "brief")
    monkeypatch.setenv("SBATCH_TIMELIMIT", "1")
    with pytest.raises(
        UsageError, match=r"^--executor slurm: a time limit of 60 s is too short: .* give time=3 or more"
    ):
        SlurmExecutor(SlurmOptions()).place(1)
    SlurmExecutor(SlurmOptions(partition="long", time=3)).place(1)
    assert asked == ["brief", "long"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"lines": ["module load x", "#SBATCH --mem=1 --time=1"]},
            "'#SBATCH --mem=1 --time=1' sets the time; give option",
        ),
        ({"lines": ["#SBATCH -t 1"]}, "sets the time; give option time instead"),
        ({"lines": ["#SBATCH  -p brief"]}, "sets the partition; give option partition instead"),
        (
            {"time": 2**32 + 4},
            "time is 4294967300: it must be .* above 0 and at most 4294967293 minutes",
        ),  # 4, to SLURM
    ],
)
def test_what_could_not_be_checked_before_or_would_be_another_number_is_refused(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        checked_options("executor slurm", SlurmOptions, options, "--executor-option")
    lines = ["#SBATCH --account=mine -e err --time-min=1 --test", "sleep -t 1"]
    checked_options("executor slurm", SlurmOptions, {"lines": lines, "time": 2**32 - 3}, "here")


@pytest.mark.parametrize(("status", "code"), [("768", 3), ("9", -9), ("0:15", -15), ("2:0", 2), ("", 0)])
def test_exit_codes(status: str, code: int) -> None:
    assert slurm_commands._exit_code(status) == code


def test_what_a_user_has_squeue_and_sinfo_show_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("squeue").write_text("#!/bin/sh\nprintf '%-100s%-40s%-20s%-12s' fg 7_0 \"$SQUEUE_PARTITION\" 0")
    Path("sinfo").write_text('#!/bin/sh\necho "main*$SINFO_PARTITION 0/4/0/4 n/a infinite"')
    for name in ("squeue", "sinfo"):
        Path(name).chmod(0o755)
        monkeypatch.setenv(f"{name.upper()}_PARTITION", "other")
    monkeypatch.setenv("PATH", str(Path.cwd()), prepend=os.pathsep)
    assert slurm_commands.tasks(["fg"]) == {("fg", 0): Task("7_0", "", 0)}
    assert slurm_commands.partition(None) == (4, None, math.inf)


def test_refused_before_anything_is_submitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    flags = ["bench", "sweep.yaml", "--out", "d", "--executor"]
    for words, message in (
        (["slurm"], "--executor slurm needs SLURM's sbatch, which is not on the path; run this on a login node"),
        (["slurm", "--executor-option", "time=soon"], "time is 'soon': it must be minutes, HH:MM:SS or D-HH:MM:SS"),
        (["local", "--detach"], "--detach is given, but executor local has no option detach; leave it out"),
    ):
        done = fg(*flags, *words)
        assert (done.exit_code, message in done.stderr, D.exists()) == (2, True, False), done.stderr
        assert done.stderr.count("\n") == 1


def test_ray_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fgcli.extend.extras.find_spec", lambda name: None)
    done = fg("bench", "sweep.yaml", "--out", "d", "--executor", "ray")
    assert done.stderr == "fg: executor ray needs ray, not installed here: pip install 'fgcli[ray]'\n"
    assert (done.exit_code, D.exists()) == (2, False)
