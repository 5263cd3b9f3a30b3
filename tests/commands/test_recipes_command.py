import re
from pathlib import Path

import pytest
from tiny_runs import fg

from fgcli import recipes
from fgcli.commands.recipe_schema import schema_text
from fgcli.extend.registry import load_registry
from fgcli.recipe import Source
from fgcli.recipe_keys import Recipe
from fgcli.runs.quantities import VALUE_KEYS
from fgcli.sweep.read import parse_sweep, resolve_trials
from fgcli.yaml_reader import read_yaml

PAGE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")


def test_list_has_every_shipped_recipe_with_its_kind_and_title():
    lines = {line.split()[0]: line for line in fg("recipes", "list").stdout.splitlines()}
    assert sorted(lines) == recipes.names()
    assert re.fullmatch(r"table3 +100 runs +Training accuracy by width \(Tab. 3\)", lines["table3"])
    assert re.fullmatch(r"quickstart +a run +activation-perturbation", lines["quickstart"])


def test_show_prints_the_file():
    assert fg("recipes", "show", "quickstart").stdout == recipes.find("quickstart").read_text(encoding="utf-8")


def test_copy_is_the_file_and_never_over_another():
    assert fg("recipes", "copy", "table3", "mine.yaml").exit_code == 0
    assert Path("mine.yaml").read_bytes() == recipes.find("table3").read_bytes()
    Path("mine.yaml").write_text("mine")
    done = fg("recipes", "copy", "table3", "mine.yaml")
    assert (done.exit_code, done.stderr) == (2, "fg: mine.yaml exists; give another name, or remove it\n")
    assert Path("mine.yaml").read_text() == "mine"


def test_validate_says_what_each_is():
    done = fg("recipes", "validate", "quickstart", "table3")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[0].endswith(
        "a run, method activation-perturbation, 40 epochs; fgcli train --recipe quickstart"
    )
    assert done.stdout.splitlines()[1].endswith("a sweep of 100 runs, 3 views; fgcli bench table3")


def test_validate_refuses_with_the_place():
    Path("mine.yaml").write_text("grid: {methods: [wt], width: [0]}")
    done = fg("recipes", "validate", "mine.yaml")
    assert (done.exit_code, done.stderr) == (2, "fg: mine.yaml:1:31: width is 0; it must be at least 1\n")


MODELS = """
from torch import nn


class Mixing(nn.Module):
    def __init__(self, input_shape, classes):
        super().__init__()
        self.first, self.last = nn.Linear(input_shape[0], 8), nn.Linear(8, classes)

    def forward(self, inputs):
        hidden = self.first(inputs)
        return self.last(hidden - hidden.mean(0))


def broken(input_shape, classes):
    raise ValueError("no such layer")
"""


def test_validate_says_at_once_all_that_would_stop_the_trials():
    Path("validated_nets.py").write_text(MODELS)
    Path("mine.yaml").write_text(
        """
base: {batch_size: 101, dataset_options: {num_samples: 100}}
grid:
  methods:
    - {label: absent, method: wt, device: "cuda:99"}
    - {label: refused, method: wperp-bottom, model: "validated_nets:Mixing"}
    - {label: broken, method: wt, model: "validated_nets:broken"}
    - {label: large, method: wperp, k: 500}
    - {label: unmeasured, method: backprop, diagnostics: [bias]}
  seed: [0, 1, 2]
"""
    )
    Path("run.yaml").write_text("{batch_size: 8, dataset_options: {num_samples: 100}, device: 'cuda:99', threads: 1}")
    done = fg("recipes", "validate", "mine.yaml", "run.yaml", "quickstart")
    assert done.exit_code == 2
    lines = [line.removeprefix("fg: ") for line in done.stderr.splitlines()]
    expected = [
        "mine.yaml:8:40: k is 500; it must be at most the width, 128",
        "mine.yaml: absent-seed0 and 2 more: device cuda:99 is absent; present: ",
        "mine.yaml: absent-seed0 and 11 more: --batch-size is 101; it must be at most 80, the training samples of",
        "mine.yaml: refused-seed0 and 2 more: method wperp-bottom cannot train model validated_nets:Mixing: site",
        f"mine.yaml: broken-seed0 and 2 more: model validated_nets:broken of {Path.cwd()}/validated_nets.py failed",
        "mine.yaml: unmeasured-seed0 and 2 more: --diagnostics is bias, but method backprop guesses no gradient",
        "run.yaml: device cuda:99 is absent; present: ",
    ]
    assert len(lines) == len(expected)
    for line, begins in zip(lines, expected, strict=True):
        assert line.startswith(begins)
    assert "a run, method activation-perturbation" in done.stdout


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            "batch_size: 79, model: 'validated_batches:normed'",
            "--batch-size is 79; the last batch of an epoch then has one of the 80 samples, which the model does",
        ),
        (
            "batch_size: 8, subspace: dominant, subspace_k: 1000000",
            "--subspace-k is 1000000; it must be at most ",
        ),
    ],
)
def test_validate_says_what_only_a_later_step_would_meet(keys, message):
    Path("validated_batches.py").write_text(
        "from torch import nn\n\n\ndef normed(input_shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(40), nn.Linear(40, classes))\n"
    )
    Path("later.yaml").write_text(f"{{{keys}, dataset_options: {{num_samples: 100}}, threads: 1}}")
    for arguments in (["recipes", "validate", "later.yaml"], ["train", "--recipe", "later.yaml"]):
        done = fg(*arguments)
        assert (done.exit_code, message in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show"], "fgcli recipes show is given 0 names; it takes one recipe: fgcli recipes show table3"),
        (["copy", "table3"], "fgcli recipes copy is given 1 names; it takes a recipe and a new file"),
        (["list", "x"], "fgcli recipes list is given 1 names; it takes no names"),
        (["show", "tabel3"], "NAME: unknown recipe 'tabel3'; did you mean 'table3'?"),
    ],
)
def test_refused(arguments, message):
    done = fg("recipes", *arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"fg: {message}")


def test_the_schema_has_every_key_of_the_code():
    assert fg("recipes", "schema").stdout == schema_text()
    assert all(f"| `{key}` |" in schema_text() for key in Recipe.model_fields)
    assert all(f"`{key}`" in schema_text() for key in VALUE_KEYS)


def test_the_sweep_of_the_page_is_valid():
    text, a_run = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    Path("run.yaml").write_text(a_run)
    assert fg("recipes", "validate", "run.yaml").exit_code == 0
    document = read_yaml(text, "docs/recipes.md")
    assert isinstance(document.data, dict)
    source = Source("docs/recipes.md", document.data, document.values, document.keys)
    assert len(resolve_trials(parse_sweep(source), source, load_registry())) == 18
