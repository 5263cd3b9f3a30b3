"""Each distribution in plugins/ and each that `fgcli new-plugin` writes installs by itself and passes its own tests."""

from importlib import import_module
from pathlib import Path

import packages
import pytest
import torch
from networks import batch_for, chain, cross_entropy

from fgcli import Streams
from fgcli.commands.new_plugin import Kind, write_plugin

PLUGINS = sorted(path.parent for path in (packages.ROOT / "plugins").glob("*/pyproject.toml"))


def test_there_are_five() -> None:
    names = {f"fg-plugin-{name}" for name in ("example", "singhal", "tensorboard", "mlflow", "wandb")}
    assert {path.name for path in PLUGINS} >= names
    assert all((path / "README.md").exists() and list((path / "tests").glob("test_*.py")) for path in PLUGINS)


@pytest.mark.slow
def test_each_installs_and_passes_its_tests(tmp_path: Path) -> None:
    """But for the example, whose tests the commands of docs/plugins.md run, and which is what new-plugin writes."""
    copies = [packages.copy(plugin, tmp_path) for plugin in PLUGINS if plugin.name != "fg-plugin-example"]
    kinds = [kind for kind in Kind if kind != Kind.GUESS_METHOD]
    written = [tmp_path / write_plugin(tmp_path, f"fg-new-{kind.value}", kind) for kind in kinds]
    # Of 30,000 estimates, that the one of new-plugin is unbiased. It is held to the exact gradient below.
    (tmp_path / "conftest.py").write_text("import fgcli.testing.estimators\n\nfgcli.testing.estimators.MOST = 1000\n")
    packages.install(tmp_path / "site", [*copies, *written])
    assert " passed" in packages.run_tests(tmp_path / "site", [*copies, *written])


def test_the_estimator_of_new_plugin_is_the_derivative_along_a_normal_direction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is unbiased for it."""
    monkeypatch.syspath_prepend(tmp_path / write_plugin(tmp_path, "fg-derivative", Kind.ESTIMATOR))
    (entry,) = import_module("fg_derivative").fg_estimators()
    model, rng = chain(4, 5, 3), Streams(3).at(2)
    batch = batch_for(model, 6)
    estimate = entry.load()(entry.options()).estimate(model, cross_entropy, batch, rng)
    loss = cross_entropy(model(batch.inputs), batch.targets).mean()
    parameters = dict(model.named_parameters())
    directions = {name: rng.normal("weight", name, tuple(p.shape), p) for name, p in parameters.items()}
    exact = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
    along = sum(float((g * directions[name]).sum()) for name, g in exact.items())
    for name, gradient in estimate.gradients.items():
        torch.testing.assert_close(gradient, along * directions[name], rtol=1e-4, atol=1e-6)
