"""`--model package.module:factory`: a user's own model, in every command that a registered one is for."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from tiny_runs import FLAGS, fg, go_on, untimed

from fgcli import ForwardGradient
from fgcli.extend.registry import load_registry
from fgcli.gradient.errors import ModelRefused
from fgcli.recipe import resolve

SOURCE = '''
    from __future__ import annotations

    import math
    from typing import TYPE_CHECKING

    import torch
    from torch import nn

    if TYPE_CHECKING:
        from elsewhere import Unknown


    class Net(nn.Module):
        """Two layers of my own."""

        def __init__(self, input_shape: tuple[int, ...], classes: int, width: int = 16, act=torch.tanh, *, scale=(1,)):
            super().__init__()
            self.hidden, self.out = nn.Linear(math.prod(input_shape), width), nn.Linear(width, classes)
            self.act, self.scale = act, scale
            assert isinstance(scale, tuple)

        def forward(self, x):
            return self.out(self.act(self.hidden(x.flatten(1)))) * self.scale[0]


    def drawn(input_shape, classes, generator, width=16):
        net = Net(input_shape, classes, width)
        for parameter in net.parameters():
            nn.init.normal_(parameter, generator=generator)
        return net


    class Bad(Net):
        """Has what `what` says between its layers."""

        def __init__(self, input_shape, classes, what: str):
            super().__init__(input_shape, classes, 5)
            self.what, self.middle = what, nn.Linear(5, 5)
            if what == "norm":
                self.norm = nn.BatchNorm1d(5)
            if what == "state":
                self.register_buffer("mean", torch.zeros(5))
            if what == "shared":
                self.again = nn.Linear(5, 5)
                self.again.weight = self.middle.weight
            self.requires_grad_(what != "frozen")

        def forward(self, x):
            h = torch.tanh(self.hidden(x.flatten(1)))
            match self.what:
                case "norm":
                    h = self.norm(h)
                case "state":
                    h = h - self.mean.lerp_(h.mean(0), 0.1)
                case "value":
                    h = h if h.sum() > 0 else -h
                case "formula":
                    h = torch.special.zeta(h.abs() + 2, torch.ones_like(h))
                case "twice":
                    h = torch.tanh(self.middle(h))
                case "shared":
                    h = torch.tanh(self.again(h))
            return self.out(torch.tanh(self.middle(h)))


    def three(input_shape, classes):
        return 3


    def fails(input_shape, classes):
        raise ValueError("no luck")


    def empty(input_shape, classes):
        with torch.device("meta"):
            return Net(input_shape, classes)


    def fixed(width: Unknown = 3):
        raise AssertionError("it is no factory, and never called")


    def needs(input_shape, classes, norm: nn.Module):
        raise AssertionError("no recipe can hold its norm")


    a_net = Net((4,), 3)
'''
OWN = [*FLAGS[:2], *FLAGS[6:], "--model", "net_of_mine:Net"]  # without width and depth


@pytest.fixture(autouse=True)
def _module(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (workplace / "net_of_mine.py").write_text(dedent(SOURCE), encoding="utf-8")
    (workplace / "broken_of_mine.py").write_text("import nowhere_at_all\n", encoding="utf-8")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield
    sys.modules.pop("net_of_mine", None)


def test_it_trains_resumes_and_is_analysed() -> None:
    flags = [*OWN, "--method", "wperp", "--k", "3", "--width", "6", "--model-option", "scale=[2]"]
    whole = fg("train", *flags, "--out", "run", "--json")
    assert whole.exit_code == 0, whole.output
    assert json.loads(whole.stdout)["sites"] == ["hidden", "out"]
    recipe = Path("run/recipe.yaml").read_text()
    assert "model: net_of_mine:Net\nmodel_options:\n  scale:\n  - 2\nwidth: 6\ndepth: null\n" in recipe
    plugins = json.loads(Path("run/environment.json").read_text())["plugins"]
    assert plugins["model"].startswith("net_of_mine file ")

    Path("run/result.json").unlink()
    for file in Path("run/checkpoints").glob("*12*"):  # the last step's: it goes on from the one before
        file.unlink()
    assert untimed(go_on(Path("run"))) == untimed(json.loads(whole.stdout))

    moments = fg("analyze-moments", "run", "--method", "wt", "--batches", "1", "--draws", "0")
    assert moments.exit_code == 0, moments.output


def test_a_factory_draws_from_the_generator_that_it_asks_for_or_from_torchs_own_which_is_seeded() -> None:
    registry = load_registry()
    for name in ("drawn", "Net"):
        one = registry.find("model", f"net_of_mine:{name}")
        options = one.entry.options.model_validate({"width": 5})
        first, again = (one.load()(options, (2, 3), 4, torch.Generator().manual_seed(seed)) for seed in (1, 1))
        assert first.hidden.weight.shape == (5, 6)
        assert torch.equal(first.hidden.weight, again.hidden.weight) == (name == "drawn")
    results = [fg("train", *OWN, "--max-steps", "1", "--out", out, "--json").stdout for out in ("one", "two")]
    assert untimed(json.loads(results[0])) == untimed(json.loads(results[1]))


def test_its_width_is_no_bound_of_k() -> None:
    overrides = {"model": "net_of_mine:Net", "width": 2, "method": "wperp", "k": 10}
    assert resolve(None, overrides, load_registry()).k == 10


def test_its_options_are_listed() -> None:
    listed = json.loads(fg("models", "net_of_mine:Net", "--json").stdout)
    assert listed[0]["summary"] == "Two layers of my own."
    assert {one["name"]: one["default"] for one in listed[0]["options"]} == {"width": 16, "scale": [1]}


WANTED = "; it must be a function or class that takes input_shape and classes and gives an nn.Module"
BAD = {
    "no module": (
        "nowhere.deep:net",
        "--model: model 'nowhere.deep:net': there is no module nowhere here",
    ),
    "a file": ("net_of_mine.py:Net", "--model: model 'net_of_mine.py:Net': there is no module net_of_mine.py here"),
    "a broken module": (
        "broken_of_mine:net",
        "--model: model 'broken_of_mine:net': importing broken_of_mine failed: ModuleNotFoundError: No module named",
    ),
    "no attribute": (
        "net_of_mine:Nett",
        "--model: unknown attribute 'Nett' of module net_of_mine; did you mean 'Net'? known attributes: Bad, Net,",
    ),
    "no callable": ("net_of_mine:SOURCE", "--model: unknown attribute 'SOURCE' of module net_of_mine"),
    "a module": ("net_of_mine:a_net", f"--model: model 'net_of_mine:a_net' is of type Net{WANTED}"),
    "no factory": ("net_of_mine:fixed", "without input_shape and classes" + WANTED),
    "no factory either": ("os:system", "--model: model 'os:system' takes (command), without input_shape"),
    "no plain option": ("net_of_mine:needs", "--model: model 'net_of_mine:needs' takes norm, of type"),
    "no nn.Module": ("net_of_mine:three", "/net_of_mine.py gave int; it must give a Module"),
    "raises": ("net_of_mine:fails", "failed: ValueError: no luck (`fgcli --debug ...` shows where)"),
    "meta device": ("net_of_mine:empty", "failed: NotImplementedError: Cannot copy out of meta tensor"),
    "no reference": (
        "net_of_mine",
        "transformer-tiny; one of your own is named package.module:factory",
    ),
    "option": ("net_of_mine:Net --model-option widht=3", "--model-option widht: unknown option 'widht' of model net_"),
    "type": ("net_of_mine:Net --model-option width=x", "--model-option width is 'x'; it must be a whole number"),
}


@pytest.mark.parametrize(("flags", "said"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line_exit_2_and_nothing_written(flags: str, said: str) -> None:
    done = fg("train", *OWN[:-1], *flags.split(), "--out", "run")
    assert done.exit_code == 2
    assert done.stderr.startswith("fg: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not Path("run").exists()


REFUSED = {
    "formula": (
        "wt",
        "site 'hidden' is followed by special_zeta, which has no forward-mode formula",
        "method backprop",
    ),
    "frozen": ("backprop", "no parameter of the model (Bad) requires a gradient", "set requires_grad"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_method_cannot_train_is_named_with_its_site_and_the_mend(what: str) -> None:
    method, said, mend = REFUSED[what]
    flags = ["--model", "net_of_mine:Bad", "--model-option", f"what={what}", "--method", method, "--out", "run"]
    done = fg("train", *OWN[:-2], *flags)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"fg: method {method} cannot train model net_of_mine:Bad: {said}")
    assert mend in done.stderr
    assert done.stderr.count("\n") == 1
    assert not Path("run").exists()

    model = load_registry().find("model", "net_of_mine:Bad").entry.load()(SimpleNamespace(what=what), (4,), 3, None)
    with pytest.raises(ModelRefused, match=re.escape(said)):
        ForwardGradient(model, method).step(torch.randn(2, 4), torch.tensor([0, 1]), F.cross_entropy)


@pytest.mark.parametrize("method", ["activation-perturbation", "wt"])
@pytest.mark.parametrize("what", ["norm", "value", "twice", "shared"])
def test_what_was_once_refused_is_trained(what: str, method: str) -> None:
    flags = ["--model", "net_of_mine:Bad", "--model-option", f"what={what}", "--method", method, "--out", "run"]
    assert fg("train", *OWN[:-2], *flags).exit_code == 0


def test_more_orthogonal_tangents_than_dimensions_are_refused() -> None:
    done = fg("train", *OWN, "--method", "wperp", "--k", "2", "--tangents", "99", "--combine", "orthogonal")
    assert done.exit_code == 2
    assert "method wperp with model net_of_mine:Net: tangents is 99; combine orthogonal takes at most 12" in done.stderr
    assert not Path("runs").exists()
