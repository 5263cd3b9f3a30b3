"""Slopes and segments read off a model."""

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from networks import chain
from torch import Tensor, nn

from fgcli.gradient.chain import Activation, OutputLayer, Segment, find_segments
from fgcli.gradient.upstream import LinearUpstream


class Functional(nn.Module):
    """The same activation three ways."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(4, 4, bias=False).double() for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.a(x), 0.3)
        x = self.b(x).relu()
        x = F.relu(torch.tanh(self.c(x)), inplace=True)
        return self.d(x).softmax(1)


def slope(segment: object, s: Tensor) -> Tensor:
    assert isinstance(segment, Segment)
    with torch.no_grad(), forward_ad.dual_level():
        return segment.slope(s)


def test_functional_activations_and_their_chains() -> None:
    model = Functional()
    segments = find_segments(model, dict.fromkeys("abcd", (4,)))
    s = torch.tensor([[-1.0, 0.0, 0.5, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(slope(segments["a"], s), torch.tensor([[0.3, 0.3, 1.0, 1.0]], dtype=torch.float64))
    torch.testing.assert_close(slope(segments["b"], s), torch.tensor([[0.0, 0.0, 1.0, 1.0]], dtype=torch.float64))
    torch.testing.assert_close(slope(segments["c"], s), (1 - torch.tanh(s) ** 2) * (s > 0))
    assert isinstance(segments["d"], OutputLayer)
    found = segments["b"]
    assert isinstance(found, Segment)
    assert found.next_layer is model.c


@pytest.mark.parametrize("inplace", [False, True])
def test_fast_relu_slope_equals_the_general_one_and_leaves_s_alone(inplace: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(inplace), nn.Linear(5, 2))
    s = torch.tensor([[-2.0, -0.0, 0.0, 1e-30, 3.0]], dtype=torch.float64)
    kept = s.clone()
    segment = find_segments(model, {"0": (5,), "2": (2,)})["0"]
    assert isinstance(segment, Segment)
    fast = slope(segment, s)
    general = slope(Segment((*segment.activations, Activation(nn.Identity())), segment.next_layer), s)
    assert torch.equal(fast, general)
    assert torch.equal(s, kept)


def test_upstream_operator_equals_its_dense_matrix() -> None:
    model = chain(4, 6, 3)
    s = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight = dict(model.named_parameters())["2.weight"].detach()
    upstream = LinearUpstream(weight, slope(find_segments(model, {"0": (6,), "2": (3,)})["0"], s))
    dense = torch.stack([weight @ torch.diag((row > 0).double()) for row in s])
    assert torch.equal(upstream.dense(), dense)
    v, u = torch.randn(5, 6, 2, dtype=torch.float64), torch.randn(5, 3, 2, dtype=torch.float64)
    torch.testing.assert_close(upstream.apply(v), dense @ v)
    torch.testing.assert_close(upstream.apply(v[..., 0]), (dense @ v)[..., 0])
    torch.testing.assert_close(upstream.apply_transpose(u), dense.mT @ u)
    torch.testing.assert_close(upstream.apply_transpose(u[..., 1]), (dense.mT @ u)[..., 1])
    assert upstream.output_dim == 3
