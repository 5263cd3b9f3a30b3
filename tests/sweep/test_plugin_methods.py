"""A sweep that takes the methods of plugin files has them as lines of their own."""

from pathlib import Path

from fgcli.extend.plugin_file import add_file
from fgcli.extend.plugins import load_plugins
from fgcli.extend.registry import Registry
from fgcli.recipe import Source
from fgcli.sweep.plan import plan
from fgcli.sweep.read import parse_sweep, resolve_trials

MINE = """
from fgcli import Entry, GuessMethod, LinearMap, hookimpl

FG_CONTRACT = 2


class Half(GuessMethod):
    needs = "nothing"

    def __init__(self, options):
        pass

    def linearize(self, layer, upstream, prepared):
        return LinearMap(layer.dim, lambda z: 0.5 * z)


@hookimpl
def fg_guess_methods():
    return [Entry("half", "line_of_mine:Half", "Half of activation perturbation.")]
"""


def test_the_methods_of_plugin_files_are_compared_where_the_sweep_says_so(tmp_path: Path) -> None:
    file = tmp_path / "line_of_mine.py"
    file.write_text(MINE)
    plugins = load_plugins()
    add_file(plugins, file)
    registry = Registry(plugins, (file,))
    assert registry.methods_of_files() == ["half"]
    for open_, expected in ((True, ["backprop", "half"]), (False, ["backprop"])):
        grid = {"methods": ["backprop"], "seed": [0, 1]}
        source = Source("sweep.yaml", {"base": {"epochs": 1}, "grid": grid, "plugin_methods": open_})
        sweep = parse_sweep(source).with_methods(registry.methods_of_files())
        assert sweep.labels() == expected
        assert sweep.with_methods(["half"]).labels() == expected
        assert len(plan(sweep)) == 2 * len(expected)
        assert {one.method for one in resolve_trials(sweep, source, registry).values()} == set(expected)
