import subprocess
import sys

import pytest
import torch
from torch import Tensor

from fg_plugin_example import ExampleOptions
from fg_plugin_example.guess import Example
from fgcli import Layer, UpstreamJacobian, load_registry
from fgcli.testing import check_guess_method


def covariance(layer: Layer, upstream: UpstreamJacobian, share: float) -> Tensor:
    w = upstream.dense()
    return share * torch.eye(layer.dim, dtype=w.dtype) + (1 - share) * w.mT @ w


@pytest.mark.parametrize("share", [0, 0.3, 1])
def test_it_keeps_the_contract(share: float) -> None:
    check_guess_method(
        lambda: Example(ExampleOptions(share=share)),
        covariance=lambda layer, upstream: covariance(layer, upstream, share),
        unbiased=share == 1,
    )


def test_it_is_registered() -> None:
    assert load_registry().find("guess method", "fg-plugin-example:example").entry.load() is Example


def test_registering_imports_no_torch() -> None:
    code = "import sys, fg_plugin_example; fg_plugin_example.fg_guess_methods(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
