"""`--resume RUN --epochs N` of a finished run, and `--init-from`: right to the bit, or refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import FLAGS, Listener, Stopper, fg, go_on, rows, run, tiny_recipe, untimed, weights

from fgcli.errors import FgError
from fgcli.extend.registry import load_registry
from fgcli.training.start import begin, resume


def extend(path: Path, reporter: Any = None, **longer: int) -> dict[str, Any]:
    return resume(path, None, longer, load_registry(), reporter or Listener()).run().as_json()


def files(path: Path) -> dict[str, bytes]:
    return {str(one): one.read_bytes() for one in path.rglob("*") if one.is_file()}


@pytest.mark.parametrize("method", ["wt", "weight-perturbation"])
def test_an_extended_run_is_the_longer_run_to_the_bit(tmp_path: Path, method: str) -> None:
    whole = run(tmp_path / "whole", epochs=6, method=method)
    short = run(tmp_path / "run", epochs=4, method=method)
    listener = Listener()
    extended = extend(tmp_path / "run", listener, epochs=6)
    assert untimed(extended) == untimed(whole)
    assert untimed(rows(tmp_path / "run")) == untimed(rows(tmp_path / "whole"))
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    assert listener.warnings == []
    assert len(listener.losses) == 6  # the steps of two epochs
    assert untimed(json.loads((tmp_path / "run" / "result-0000000012.json").read_text())) == untimed(short)
    (entry,) = json.loads((tmp_path / "run" / "environment.json").read_text())["extended"]
    assert (entry["after_step"], entry["epochs"], entry["max_steps"]) == (12, 4, None)
    assert fg("report", str(tmp_path / "run")).exit_code == 0


def test_it_is_extended_twice_also_by_steps_and_interrupted(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", max_steps=14, epochs=5)
    run(tmp_path / "run", max_steps=5)
    extend(tmp_path / "run", max_steps=8)
    with pytest.raises(KeyboardInterrupt):
        extend(tmp_path / "run", Stopper(10), max_steps=12)
    go_on(tmp_path / "run")
    with pytest.raises(
        FgError, match=r"the run has made 12 steps, and shall end after 12; it has max_steps, give more --max-steps"
    ):
        extend(tmp_path / "run", max_steps=12)
    extended = extend(tmp_path / "run", max_steps=14, epochs=5)
    assert untimed(extended) == untimed(whole)
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    assert len(json.loads((tmp_path / "run" / "environment.json").read_text())["extended"]) == 3


@pytest.mark.parametrize("after", ["write_environment", "rename", "write_atomically"])
def test_a_kill_while_it_is_extended_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str) -> None:
    whole = run(tmp_path / "whole", epochs=6)
    run(tmp_path / "run")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        where = {"write_environment": "fgcli.runs.run_directory.RunDirectory.write_environment"}
        where |= {"rename": "pathlib.Path.rename", "write_atomically": "fgcli.training.loop.Training.know_checkpoints"}
        if after == "write_atomically":  # when the recipe is written, before the first new checkpoint
            original, calls = resume.__globals__["Training"].know_checkpoints, []
            killed_later = lambda self: killed() if calls else (calls.append(1), original(self))  # noqa: E731
            patch.setattr(where[after], killed_later)
        else:
            patch.setattr(where[after], killed)
        with pytest.raises(KeyboardInterrupt):
            extend(tmp_path / "run", epochs=6)
    if after == "write_atomically":
        assert "epochs: 6" in (tmp_path / "run" / "recipe.yaml").read_text()
        extended = go_on(tmp_path / "run")
    else:
        assert (tmp_path / "run" / "result.json").exists()
        extended = extend(tmp_path / "run", epochs=6)
    assert untimed(extended) == untimed(whole)
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


@pytest.mark.parametrize(
    ("begun", "flags", "said"),
    [
        ({}, "--epochs 4", "--resume run: the run has made 12 steps, and shall end after 12; give more --epochs"),
        ({}, "--epochs 3", "--resume run: the run has made 12 steps, and shall end after 9; give more --epochs"),
        (
            {"max_steps": 5},
            "--epochs 9",
            "has made 5 steps, and shall end after 5; it has max_steps, give more --max-steps",
        ),
        ({}, "--epochs 6 --width 9", "--resume run: width is 9, but the run's recipe has 8"),
        (
            {},
            "--recipe other.yaml --epochs 6",
            "--resume run: width is 9, but the run's recipe has 8; seed is 7, but the run's recipe has 0; a run ",
        ),
        ({}, "--epochs many", "--epochs is 'many'; it must be a whole number"),
        (
            {"lr_schedule": "cosine"},
            "--epochs 6",
            "--resume run: lr_schedule cosine depends on the length of the run: a longer one has learning rate ",
        ),
        ({}, "", "--resume run: this run is finished; its result is in run/result.json; give more --epochs to go on"),
    ],
)
def test_what_cannot_be_extended_is_refused_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: dict[str, Any], flags: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    run(Path("run"), **begun)
    text = Path("run/recipe.yaml").read_text()
    Path("other.yaml").write_text(text.replace("width: 8\n", "width: 9\n").replace("seed: 0\n", "seed: 7\n"))
    before = files(tmp_path)
    done = fg("train", "--resume", "run", *flags.split())
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert files(tmp_path) == before


def test_a_schedule_that_does_not_depend_on_the_length_is_extended(tmp_path: Path) -> None:
    schedule = {"lr_schedule": "step", "lr_schedule_options": {"step_size": 2}}
    whole = run(tmp_path / "whole", epochs=6, **schedule)
    run(tmp_path / "run", **schedule)
    assert untimed(extend(tmp_path / "run", epochs=6)) == untimed(whole)


def test_a_run_begins_with_the_weights_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = run(Path("first"), method="backprop")
    assert fg("export", "first", "--format", "safetensors", "--out", "net.safetensors").exit_code == 0
    frozen = {"lr": 1e-30, "max_steps": 1}
    for name, source in (("of-run", "first"), ("of-file", "net.safetensors")):
        result = run(Path(name), init_from=source, **frozen)
        assert result["test_loss"] == first["test_loss"]
        assert result["init_from"] == source
    assert run(Path("fresh"), **frozen)["test_loss"] != first["test_loss"]
    sums = [json.loads(Path(name, "environment.json").read_text()).get("weights") for name in ("of-run", "of-file")]
    assert sums[0] == sums[1]
    assert len(sums[0]) == 12


def test_a_resumed_run_needs_its_first_weights_no_more(tmp_path: Path) -> None:
    run(tmp_path / "first")
    whole = run(tmp_path / "whole", init_from=str(tmp_path / "first"))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", Stopper(7), init_from=str(tmp_path / "first"))
    (tmp_path / "first").rename(tmp_path / "gone")
    assert untimed(go_on(tmp_path / "run")) == untimed(whole)


BAD: dict[str, str] = {
    "absent": "--init-from absent cannot be read: No such file or directory",
    "empty": "--init-from empty: empty holds no run: there is no file empty/recipe.yaml",
    "text.txt": "--init-from text.txt is no run and no safetensors file (",
    "other.safetensors": "--init-from other.safetensors has weights of another model: Error(s) in loading state_dict",
    "first/checkpoints/step-0000000012.safetensors": "that is a checkpoint of a run",
    "other": "--init-from other: no usable checkpoint in other/checkpoints: ",
}


@pytest.mark.parametrize("name", BAD)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("text.txt").write_text("weights")
    if name.startswith("first"):
        run(Path("first"), method="backprop")
    if name.startswith("other"):
        run(Path("other"), width=9, max_steps=1)
        fg("export", "other", "--format", "safetensors", "--out", "other.safetensors")
    done = fg("train", *FLAGS, "--init-from", name, "--out", "run")
    assert (done.exit_code, done.stdout) == (2, "")
    assert BAD[name] in done.stderr
    assert done.stderr.count("\n") == 1
    assert not Path("run").exists()
    Path("mine.yaml").write_text(f"init_from: {name}\nwidth: 8\ndepth: 2\ndataset_options: {{num_samples: 1000}}\n")
    assert BAD[name] in fg("recipes", "validate", "mine.yaml").output.replace("\n", " ")


def test_what_a_run_began_with_is_part_of_what_it_was_made_with(tmp_path: Path) -> None:
    from fgcli.runs.made_with import made_with
    from fgcli.runs.run_directory import read_run

    run(tmp_path / "first", max_steps=1)
    recipe = tiny_recipe(init_from=str(tmp_path / "first"), max_steps=1)
    begin(recipe, tmp_path / "run", load_registry(), Listener()).run()
    found = made_with(read_run(tmp_path / "run").read_environment(), recipe.model_dump())
    assert len(found[f"weights {tmp_path / 'first'}"]) == 12
