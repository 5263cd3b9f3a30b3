"""The metric sink tensorboard."""

import os
from hashlib import blake2b
from pathlib import Path
from typing import Any

from fg_plugin_tensorboard import TensorBoardOptions
from fgcli import Plan


class TensorBoard:
    """Every number of a row as a scalar `split/what` over the steps, by TensorBoard's own writer."""

    def __init__(self, options: TensorBoardOptions) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            mend = "pip install 'fg-plugin-tensorboard[tensorboard]'"
            raise RuntimeError(f"TensorBoard is not installed ({error}): {mend}") from error
        self.options = options
        self._make_writer = SummaryWriter
        self._writer: Any = None

    def started(self, plan: Plan) -> None:
        parent = self.options.log_dir
        folder = plan.run_dir / "tensorboard" if parent is None else Path(parent) / _name(plan.run_dir.resolve())
        # What a run wrote after the checkpoint that it goes on from is written again: TensorBoard hides the first.
        purged = plan.first_step + 1 if plan.first_step else None
        self._writer = self._make_writer(str(folder), purge_step=purged)

    def row(self, row: dict[str, Any]) -> None:
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                self._writer.add_scalar(_tag(name), value, row["step"])
        self._writer.flush()

    def finished(self, result: dict[str, Any] | None) -> None:
        self._writer.close()


def _name(run: Path) -> str:
    """`run-1c9f03ab`: its name, and what tells it from a run of the same name in another folder."""
    return f"{run.name}-{blake2b(os.fsencode(run), digest_size=4).hexdigest()}"


def _tag(name: str) -> str:
    """`train_loss` to `loss/train`, so that both splits share a chart's group."""
    split, _, what = name.partition("_")
    return f"{what}/{split}" if split in ("train", "test") else name
