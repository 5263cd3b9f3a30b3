"""Runs with local losses: what is trained and kept, and what is refused in a line."""

import pytest
import torch
from tiny_runs import Listener, run, tiny_recipe

from fgcli import load_model
from fgcli.errors import UsageError
from fgcli.extend.registry import load_registry
from fgcli.runs.run_directory import read_run
from fgcli.training.assembly import assemble
from fgcli.training.checkpoints import store_of
from fgcli.training.start import begin


def test_the_heads_are_trained_and_kept_and_the_loaded_network_is_without_them(tmp_path):
    result = run(tmp_path / "run", method="activation-perturbation", local_losses=1, epochs=2)
    tensors = store_of(read_run(tmp_path / "run")).load_newest()[0]
    assert tensors is not None
    heads = {name: one for name, one in tensors.tensors.items() if name.startswith("model.local_heads")}
    assert len(heads) == 2
    start = assemble(tiny_recipe(method="backprop", local_losses=1), load_registry()).model
    plain = assemble(tiny_recipe(method="backprop"), load_registry()).model
    for name, one in plain.named_parameters():  # heads change nothing of the model's own start
        assert torch.equal(one, start.get_parameter(name))
    for name, one in heads.items():
        assert not torch.equal(one, start.get_parameter(name.removeprefix("model.")))
    network = load_model(tmp_path / "run").network
    assert "local_heads" not in dict(network.named_children())
    assembly = assemble(tiny_recipe(method="backprop"), load_registry())
    loss = assembly.objective.loss(network(assembly.dataset.test_inputs), assembly.dataset.test_targets).mean()
    assert loss.item() == pytest.approx(result["test_loss"], rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"local_losses": 9}, "--local-losses is 9; it must be from 1 to 2, the layers before the output: activation1"),
        ({"local_losses": "hiden1"}, "--local-losses: unknown layer 'hiden1' of the model; did you mean 'hidden1'"),
        ({"local_losses": "hidden1,hidden1"}, "names hidden1 twice"),
        ({"local_losses": 1, "local_head": "group", "local_groups": 7}, "--local-groups is 7; it must divide the 8"),
        ({"local_losses": 1, "model": "mixer-local"}, r"this one gives \[2, 10, \d+\] for 2 samples"),
        ({"local_losses": 1, "diagnostics": ["bias"]}, "--diagnostics is bias; it is of one loss for the whole model"),
        ({"local_losses": 1, "method": "pepita"}, "one error to the inputs: leave --local-losses out"),
        ({"local_groups": 2}, "local_groups is 2; it is of local losses: set local_losses"),
        ({"local_losses": 1, "local_groups": 2}, "groups are of local_head group"),
        ({"loss": "error-rate", "method": "pepita"}, "has no derivative, which method pepita .* needs"),
        ({"loss": "error-rate", "method": "local-gradient", "local_losses": 1}, "has no derivative"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_before_anything_is_written(tmp_path, changes, said):
    with pytest.raises(UsageError, match=said) as refusal:
        begin(tiny_recipe(**changes), tmp_path / "run", load_registry(), Listener())
    assert refusal.value.exit_code == 2
    assert not (tmp_path / "run").exists()
