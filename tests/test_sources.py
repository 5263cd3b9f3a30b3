"""What no source file of fg or of its plugins does: unpickle, evaluate text, go to the network."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for folder in ("fgcli", "plugins", "benchmarks") for path in (ROOT / folder).rglob("*.py"))

# cloudpickle and joblib are on the path of every installation, through scikit-learn.
UNPICKLING = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "pandas"}
NETWORK = {"socket", "ssl", "urllib", "http", "ftplib", "smtplib", "requests", "urllib3", "httpx", "aiohttp", "asyncio"}
LOADERS = {
    "torch.load", "torch.hub", "torch.jit.load", "torch.export.load", "torch.package", "numpy.load", "np.load",
    "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "yaml.Loader", "yaml.FullLoader",
    "yaml.UnsafeLoader", "mnist1d.data.get_dataset",
}  # fmt: skip
EVALUATION = {"eval", "exec", "compile", "__import__"}
ALLOWED = {
    ("fgcli/runs/lock.py", "socket"),  # its gethostname, which asks nobody
    ("fgcli/bench/forked.py", "socket"),  # a pair of this machine's, between a bench and its fork server
    ("fgcli/bench/fork_server.py", "socket"),
    ("fgcli/bench/ray_cluster.py", "socket"),  # whether the cluster that the user names answers
    ("fgcli/data/arrays.py", "numpy.load"),  # which refuses objects unless it is told to unpickle them
}


def forbidden(source: str) -> Iterator[str]:
    """What of it a source names. `model.eval()` is no built-in's call; `loader.exec_module` runs a --plugin FILE."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            names = [ast.unparse(node)]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in EVALUATION:
            yield node.func.id
            continue
        elif isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "weights_only"):
            yield node.arg
            continue
        else:
            continue
        for name in names:
            top = name.partition(".")[0]
            if name in LOADERS or (top in UNPICKLING | NETWORK and not isinstance(node, ast.Attribute)):
                yield name if name in LOADERS else top


def test_nothing_is_unpickled_evaluated_or_fetched() -> None:
    found = {(str(path.relative_to(ROOT)), one) for path in FILES for one in forbidden(path.read_text("utf-8"))}
    assert found == ALLOWED
    assert len(FILES) > 100


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import pickle", "pickle"),
        ("def f():\n    from joblib import load", "joblib"),
        ("import urllib.request as r", "urllib"),
        ("torch.load(path)", "torch.load"),
        ("from yaml import unsafe_load", "yaml.unsafe_load"),
        ("np.load(path, allow_pickle=True)", "allow_pickle"),
        ("eval(text)", "eval"),
        ("from mnist1d.data import get_dataset", "mnist1d.data.get_dataset"),
    ],
)
def test_it_would_be_seen(source: str, found: str) -> None:
    assert found in set(forbidden(source))


def test_what_only_looks_like_it_is_not() -> None:
    assert not set(forbidden("model.eval()\nloader.exec_module(m)\nsafetensors.torch.load(x)\nre.compile('a')"))
