"""One look at each network, however often a method is bound to it: for tests of what comes after the look."""

from typing import Any

import pytest
from torch import nn

from fgcli.gradient import engine
from fgcli.gradient.look import look
from fgcli.gradient.nested import leaves
from fgcli.gradient.processes import digest_of
from fgcli.gradient.sites import Network

_KNOWN: dict[object, Network] = {}


def looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the engine what the same look has found before: at this model, with these weights and these inputs."""
    monkeypatch.setattr(engine, "look", _found)


def _found(model: nn.Module, inputs: Any, *, whole: bool = False) -> Network:
    trained = tuple(one.requires_grad for one in model.parameters())
    key = (repr(model), model.training, trained, digest_of([*model.state_dict().values(), *leaves(inputs)]), whole)
    if key not in _KNOWN:
        _KNOWN[key] = look(model, inputs, whole=whole)
    return _KNOWN[key]
