"""What a checkpoint of a training holds: into tensors and JSON data, and back."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from fgcli.errors import RunError, exception_text
from fgcli.extend.explain import shown
from fgcli.training.assembly import Assembly
from fgcli.training.checkpoints import Checkpoint
from fgcli.training.step_times import StepTimes

_WARM, _COLD = "training.step_ms", "training.warm_up_step_ms"


def capture(assembly: Assembly, step: int, wall_s: float, times: StepTimes) -> Checkpoint:
    """All of a training after `step` updates.

    RunError for state of the optimiser that is neither tensor nor JSON, and of the estimator that is no tensor.
    """
    tensors = {f"model.{name}": tensor for name, tensor in _model_tensors(assembly.model)}
    tensors |= {f"estimator.{name}": tensor for name, tensor in _estimator_state(assembly).items()}
    if assembly.subspace is not None:
        tensors |= {f"subspace.{name}": tensor for name, tensor in assembly.subspace.state().items()}
    tensors[_WARM] = torch.tensor(times.warm, dtype=torch.float64)
    tensors[_COLD] = torch.tensor(times.cold, dtype=torch.float64)
    return Checkpoint(step, tensors, {"wall_s": wall_s, "optimizer": _pack_optimizer(assembly.optimizer, tensors)})


def restore(assembly: Assembly, checkpoint: Checkpoint) -> tuple[float, StepTimes]:
    """Put a checkpoint into a freshly assembled training; returns the wall time and the step times so far.

    RunError when the checkpoint is of a model with other parameters or buffers.
    """
    tensors = checkpoint.tensors
    saved, wanted = _with_prefix("model.", tensors), dict(_model_tensors(assembly.model))
    if {name: t.shape for name, t in saved.items()} != {name: t.shape for name, t in wanted.items()}:
        names = sorted(saved.keys() ^ wanted.keys()) or [n for n in wanted if saved[n].shape != wanted[n].shape]
        raise RunError(
            f"the checkpoint of step {checkpoint.step} is of another model: {names[0]} differs in shape or is missing"
        )
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(saved[name])
    assembly.estimator.load_state(
        {name: tensor.to(assembly.device) for name, tensor in _with_prefix("estimator.", tensors).items()}
    )
    _unpack_optimizer(assembly.optimizer, checkpoint.data["optimizer"], tensors)
    if assembly.subspace is not None:
        assembly.subspace.load_state(_with_prefix("subspace.", tensors), checkpoint.step)
    times = StepTimes(tensors[_WARM].tolist(), tensors[_COLD].tolist())
    return checkpoint.data["wall_s"], times


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


def _unpack_optimizer(optimizer: torch.optim.Optimizer, packed: dict[str, Any], tensors: dict[str, Tensor]) -> None:
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
    try:
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    except (ValueError, KeyError) as error:
        raise RunError(f"the checkpoint's optimiser state does not fit: {error}") from error
