"""What a checkpoint of a training holds: into tensors and JSON data, and back."""

import hashlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model
from torch import Tensor

from fgcli.errors import FgError, RunError, UsageError, exception_text
from fgcli.extend.explain import shown
from fgcli.files import refuse_impossible, require_regular
from fgcli.runs.run_directory import RunDirectory, read_run
from fgcli.training.assembly import Assembly
from fgcli.training.checkpoints import Checkpoint, store_of
from fgcli.training.schedules import advance

WARM_UP = 5  # steps at the start of a process: memory pools fill, kernels are chosen
_WARM, _COLD = "training.step_ms", "training.warm_up_step_ms"


class StepTimes:
    """Milliseconds a step. The first steps of each process are kept apart, and count only where there are no others."""

    def __init__(self, warm: list[float] | None = None, cold: list[float] | None = None) -> None:
        self.warm = [] if warm is None else warm
        self.cold = [] if cold is None else cold
        self._warming_up = WARM_UP

    def add(self, milliseconds: float) -> None:
        """The time of one more step of this process."""
        if self._warming_up > 0:
            self._warming_up -= 1
            self.cold.append(milliseconds)
        else:
            self.warm.append(milliseconds)

    def mean(self) -> float:
        """The mean. ValueError before the first step."""
        return statistics.fmean(self._counted())

    def quartiles(self) -> tuple[float, float, float]:
        """The lower quartile, the median and the upper quartile. ValueError before the first step."""
        times = self._counted()
        if len(times) == 1:
            return times[0], times[0], times[0]
        lower, median, upper = statistics.quantiles(times, n=4, method="inclusive")
        return lower, median, upper

    def _counted(self) -> list[float]:
        if not (times := self.warm or self.cold):
            raise ValueError("no step was timed yet")
        return times


@dataclass
class Progress:
    """What a run has come to, beside its weights."""

    wall_s: float = 0.0
    """Seconds that it has taken, in all its processes."""
    times: StepTimes = field(default_factory=StepTimes)
    skipped: int = 0
    """Updates left out, as something was not finite."""
    best: tuple[float, int] | None = None
    """The lowest training loss of an evaluation, and its step."""


def capture(assembly: Assembly, step: int, progress: Progress) -> Checkpoint:
    """All of a training after `step` steps.

    RunError for state of the optimiser that is neither tensor nor JSON, and of the estimator that is no tensor.
    """
    tensors = {f"model.{name}": tensor for name, tensor in _model_tensors(assembly.model)}
    tensors |= {f"estimator.{name}": tensor for name, tensor in _estimator_state(assembly).items()}
    if assembly.subspace is not None:
        tensors |= {f"subspace.{name}": tensor for name, tensor in assembly.subspace.state().items()}
    tensors[_WARM] = torch.tensor(progress.times.warm, dtype=torch.float64)
    tensors[_COLD] = torch.tensor(progress.times.cold, dtype=torch.float64)
    data = {"wall_s": progress.wall_s, "skipped": progress.skipped, "best": progress.best}
    return Checkpoint(step, tensors, data | {"optimizer": _pack_optimizer(assembly.optimizer, tensors)})


def restore(assembly: Assembly, checkpoint: Checkpoint) -> Progress:
    """Put a checkpoint into a freshly assembled training.

    RunError when the checkpoint is of a model with other parameters or buffers, or holds something else than a
    training's state; another checkpoint may be put there then.
    """
    try:
        return _restore(assembly, checkpoint)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise RunError(
            f"the checkpoint of step {checkpoint.step} is not one of this training: {exception_text(error)}"
        ) from error


def load_weights(model: torch.nn.Module, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's weights and buffers into a model. RunError where one differs in form, or is missing."""
    saved, wanted = _with_prefix("model.", checkpoint.tensors), dict(_model_tensors(model))
    if misfits := [name for name in {**wanted, **saved} if _form(saved.get(name)) != _form(wanted.get(name))]:
        called = f"the checkpoint of step {checkpoint.step}"
        raise RunError(f"{called} is of another model: {misfits[0]} differs in shape or type, or is missing")
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(saved[name])


def initialise(assembly: Assembly) -> str:
    """Put in the weights that the recipe names; the beginning of their sha256, "" where it names none.

    UsageError where there are none, or they are another model's.
    """
    if assembly.recipe.init_from is None:
        return ""
    path, model = Path(assembly.recipe.init_from), assembly.model
    called = f"--init-from {path}"
    refuse_impossible(path, "--init-from")
    RunDirectory(path).refuse_own_loop(called)
    try:
        if not path.is_dir():
            require_regular(path)  # safetensors reports a missing file and a damaged one alike
            _refuse_checkpoint(path, model)
            load_model(model, path, device=str(assembly.device))
        elif store_of(read_run(path)).load_newest(partial(load_weights, model))[0] is None:
            raise UsageError("the run has no checkpoint yet")
    except FgError as error:
        raise UsageError(f"{called}: {error}") from error
    except OSError as error:
        raise UsageError(f"{called} cannot be read: {error.strerror or error}") from error
    except (ValueError, SafetensorError) as error:
        raise UsageError(f"{called} is no run and no safetensors file ({error})") from error
    except RuntimeError as error:  # torch's list of what is missing, left over or of another shape
        raise UsageError(f"{called} has weights of another model: {' '.join(str(error).split())[:300]}") from error
    total = hashlib.sha256()
    for name, tensor in _model_tensors(model):
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()[:12]


def _refuse_checkpoint(file: Path, model: torch.nn.Module) -> None:
    """UsageError for a run's own file, which has more than the weights."""
    with safe_open(file, "pt") as tensors:
        if set(tensors.keys()) >= {f"model.{name}" for name, _ in _model_tensors(model)}:
            mend = "give the run's folder, or what `fgcli export RUN --format safetensors` wrote"
            raise UsageError(f"that is a checkpoint of a run, which holds more than weights; {mend}")


def _restore(assembly: Assembly, checkpoint: Checkpoint) -> Progress:
    tensors, data, step = checkpoint.tensors, checkpoint.data, checkpoint.step
    load_weights(assembly.model, checkpoint)
    assembly.estimator.load_state(
        {name: tensor.to(assembly.device) for name, tensor in _with_prefix("estimator.", tensors).items()}
    )
    if assembly.subspace is not None:
        assembly.subspace.load_state(_with_prefix("subspace.", tensors), step)
    times = StepTimes(tensors[_WARM].tolist(), tensors[_COLD].tolist())
    best = data["best"] and (float(data["best"][0]), int(data["best"][1]))
    progress = Progress(float(data["wall_s"]), times, int(data["skipped"]), best)
    if not 0 <= progress.skipped <= step or (best and not 0 <= best[1] <= step):
        raise RunError(
            f"the checkpoint of step {step} counts {progress.skipped} skipped updates and its best is {best}"
        )
    fresh = [_settings(group) for group in assembly.optimizer.param_groups]
    _unpack_optimizer(assembly.optimizer, data["optimizer"], tensors)
    # A schedule is a function of the step, and has no state in a checkpoint: it is taken there from fresh settings.
    groups = assembly.optimizer.param_groups
    restored = [_settings(group) for group in groups]
    for group, settings in zip(groups, fresh, strict=True):
        group.update(settings)
    advance(assembly.schedule, step)
    for group, settings in zip(groups, restored, strict=True):
        group.update(settings)
    return progress


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key != "params"}


def _form(tensor: Tensor | None) -> tuple[torch.Size, torch.dtype] | None:
    return None if tensor is None else (tensor.shape, tensor.dtype)


def _estimator_state(assembly: Assembly) -> dict[str, Tensor]:
    try:
        state = assembly.estimator.state()
    except (Exception, SystemExit) as cause:
        fault = exception_text(cause)
        raise RunError(f"cannot write a checkpoint: state of {assembly.method} raised {fault}") from cause
    if not (isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values())):
        given = f"state of {assembly.method} gave {shown(state)}"
        raise RunError(f"cannot write a checkpoint: {given}; it must give a mapping of names to tensors")
    return state


def _model_tensors(model: torch.nn.Module) -> Iterable[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _pack_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The optimiser's state_dict as JSON, each of its tensors in `tensors` instead, under the name left in its place.

    {"state": {"0": {"exp_avg": {"tensor": "optimizer.state.0.exp_avg"}, ...}, ...}, "param_groups": [{...}, ...]}
    """

    def pack(name: str, value: object) -> object:
        if isinstance(value, Tensor):
            tensors[name] = value
            return {"tensor": name}
        if isinstance(value, tuple | list):
            return [pack(f"{name}.{index}", item) for index, item in enumerate(value)]
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise RunError(f"cannot write a checkpoint: {name} of the optimiser is a {type(value).__name__}")

    state = optimizer.state_dict()
    return {
        "state": {
            str(index): {key: pack(f"optimizer.state.{index}.{key}", value) for key, value in slots.items()}
            for index, slots in state["state"].items()
        },
        "param_groups": [
            {key: pack(f"optimizer.group.{index}.{key}", value) for key, value in group.items()}
            for index, group in enumerate(state["param_groups"])
        ],
    }


def _unpack_optimizer(optimizer: torch.optim.Optimizer, packed: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
    def unpack(value: Any) -> Any:
        if isinstance(value, dict):
            return tensors[value["tensor"]]
        return [unpack(item) for item in value] if isinstance(value, list) else value

    groups: list[dict[str, Any]] = []
    for group, current in zip(packed["param_groups"], optimizer.param_groups, strict=True):
        values = {key: unpack(value) for key, value in group.items()}
        # JSON knows no tuples; betas, say, is one.
        groups.append({key: tuple(v) if isinstance(current.get(key), tuple) else v for key, v in values.items()})
    state = {int(index): {key: unpack(v) for key, v in slots.items()} for index, slots in packed["state"].items()}
    _refuse_other_shapes(groups, optimizer, state)
    try:
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    except (ValueError, KeyError) as error:
        raise RunError(f"the checkpoint's optimiser state does not fit: {error}") from error


def _refuse_other_shapes(
    groups: Sequence[Mapping[str, Any]], optimizer: torch.optim.Optimizer, state: Mapping[int, Mapping[str, Any]]
) -> None:
    """RunError where a slot of a fused optimiser is no scalar and has not its parameter's shape.

    Fused kernels look at no shape: they would read and write beyond it.
    """
    own = zip(groups, optimizer.param_groups, strict=True)
    parameters = [(group.get("fused"), parameter) for group, current in own for parameter in current["params"]]
    for index, (fused, parameter) in enumerate(parameters):
        for key, value in state.get(index, {}).items():
            if fused and isinstance(value, Tensor) and value.dim() and value.shape != parameter.shape:
                shapes = f"{list(value.shape)}, its parameter {list(parameter.shape)}"
                raise RunError(f"the checkpoint's optimiser state does not fit: {key} of number {index} is {shapes}")
