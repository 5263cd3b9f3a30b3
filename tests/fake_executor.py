"""An executor that trains nothing, as a plugin file: it writes what a trial would, or fails as it is told."""

STUB = """
import json
from pathlib import Path

from pydantic import Field

from fgcli import Entry, Options, Outcome, hookimpl
from fgcli.recipe import read_recipe
from fgcli.runs.results import Metrics, Result
from fgcli.runs.run_directory import RunDirectory

FG_CONTRACT = 2


class StubOptions(Options):
    fails: str = Field(default="", description="Trials whose name holds this fail ...")
    times: int = Field(default=9, description="... so many times.")
    stops: bool = Field(default=False, description="Raise KeyboardInterrupt after the first trial.")


class Stub:
    def __init__(self, options):
        self.options = options

    def run(self, trials):
        for trial in trials:
            with open("started.txt", "a") as file:
                resumed = "--resume" in trial.command
                file.write(f"{trial.name} {'resumed' if resumed else 'new'}\\n")
            if "--sink" in trial.command:
                with open("sinks.txt", "a") as file:
                    print(*trial.command[trial.command.index("--sink"):], file=file)
            trial.run_dir.mkdir(exist_ok=resumed)
            recipe = dict(read_recipe(trial.command[trial.command.index("--recipe") + 1]).data)
            (trial.run_dir / "recipe.yaml").touch()
            failed = Path("started.txt").read_text().split().count(trial.name) <= self.options.times
            if self.options.fails and self.options.fails in trial.name and failed:
                with trial.log.open("a") as log:
                    log.write("first\\nfg: the loss is not finite\\n")
                yield Outcome(trial, 1)
                continue
            loss = abs(recipe["lr"] - (0.02 if recipe["method"] == "wt" else 0.1)) + 0.001 * recipe["seed"]
            metrics = Metrics(train_accuracy=0.5, test_accuracy=0.4, train_loss=loss, test_loss=loss)
            result = Result(
                recipe=recipe, steps=1, metrics=metrics, wall_s=12.0, step_ms_median=1.0, peak_memory_bytes=1
            )
            RunDirectory(trial.run_dir).result_file.write_text(json.dumps(result.as_json()))
            yield Outcome(trial, 0)
            if self.options.stops:
                raise KeyboardInterrupt


@hookimpl
def fg_executors():
    return [Entry("stub", "stub:Stub", "Trains nothing.", StubOptions)]


@hookimpl
def fg_metric_sinks():
    return [Entry("tracker", "stub:Stub", "Is never made.", StubOptions)]
"""
