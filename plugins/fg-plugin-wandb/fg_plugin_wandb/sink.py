"""The metric sink wandb."""

import os
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any

from fg_plugin_wandb import WandbOptions
from fgcli import Plan, read_report


class Wandb:
    """A run of W&B: the recipe as its configuration, every row, the result as its summary, the report as an artefact.

    Its files lie in the run directory, under wandb/.
    """

    def __init__(self, options: WandbOptions) -> None:
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            mend = "pip install 'fg-plugin-wandb[wandb]'"
            raise RuntimeError(f"W&B is not installed ({error}): {mend}") from error
        self.options, self._wandb = options, wandb
        self._run: Any = None

    def started(self, plan: Plan) -> None:
        self._plan = plan
        folder = plan.run_dir.resolve() / "wandb"
        folder.mkdir(exist_ok=True)
        known = folder / "fg-run-id"  # a run that goes on is the same one to W&B
        begun = known.read_text(encoding="utf-8") if plan.first_step and known.exists() else None
        self._run = self._wandb.init(
            project=self.options.project,
            group=self.options.group or (plan.sweep.name if plan.sweep else None),
            name=folder.parent.name,
            id=begun,
            resume="allow" if begun else None,
            config=dict(plan.recipe),
            dir=str(folder.parent),
            mode=self.options.mode or os.environ.get("WANDB_MODE") or ("online" if _has_login() else "offline"),  # pyright: ignore[reportArgumentType]
            settings=self._wandb.Settings(console="off", silent=True),
        )
        known.write_text(self._run.id, encoding="utf-8")

    def row(self, row: dict[str, Any]) -> None:
        self._run.log({name: value for name, value in row.items() if name != "step"}, step=row["step"])

    def finished(self, result: dict[str, Any] | None) -> None:
        if result is not None:
            self._run.summary.update({name: one for name, one in result.items() if name not in self._plan.recipe})
            report = self._wandb.Artifact(f"report-{self._run.id}", type="report")
            with report.new_file("report.html", encoding="utf-8") as file:
                file.write(read_report(self._plan.run_dir).as_html())
            self._run.log_artifact(report)
        self._run.finish(exit_code=0 if result is not None else 1)


def _has_login() -> bool:
    """Whether a key is at hand: in the environment, or where `wandb login` has put it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    server = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    host = server.rpartition("//")[2].partition("/")[0].partition(":")[0]
    for file in (os.environ.get("NETRC"), Path.home() / ".netrc", Path.home() / "_netrc"):
        try:
            if file and netrc(file).authenticators(host):
                return True
        except (OSError, NetrcParseError):
            continue
    return False
