"""Links between layers, their slopes, and where samples are in a tensor."""

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from networks import chain
from torch import Tensor, nn

from fgcli.gradient.look import look
from fgcli.gradient.sites import NOWHERE, PLAIN, Activation, Layout, Link, Site


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


def link_of(model: nn.Module, inputs: Tensor, name: str) -> Link:
    link = look(model, inputs).sites[name].link
    assert link is not None
    return link


def slope(link: Link, s: Tensor) -> Tensor:
    with torch.no_grad(), forward_ad.dual_level():
        return link.slope(s)


def test_functional_activations_and_their_chains() -> None:
    model, inputs = Functional(), torch.randn(2, 4, dtype=torch.float64)
    network = look(model, inputs)
    s = torch.tensor([[-1.0, 0.0, 0.5, 2.0]], dtype=torch.float64)
    a, b, c = (link_of(model, inputs, name) for name in "abc")
    torch.testing.assert_close(slope(a, s), torch.tensor([[0.3, 0.3, 1.0, 1.0]], dtype=torch.float64))
    torch.testing.assert_close(slope(b, s), torch.tensor([[0.0, 0.0, 1.0, 1.0]], dtype=torch.float64))
    torch.testing.assert_close(slope(c, s), (1 - torch.tanh(s) ** 2) * (s > 0))
    assert network.sites["d"].is_output
    assert network.sites["d"].link is None
    assert (b.next_site, b.next_weight) == ("c", "c.weight")
    assert [site.reaches for site in network.sites.values()] == [("b",), ("c",), ("d",), ()]


@pytest.mark.parametrize("inplace", [False, True])
def test_fast_relu_slope_equals_the_general_one_and_leaves_s_alone(inplace: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(inplace), nn.Linear(5, 2))
    s = torch.tensor([[-2.0, -0.0, 0.0, 1e-30, 3.0]], dtype=torch.float64)
    kept = s.clone()
    link = link_of(model, torch.randn(2, 3), "0")
    general = Link((*link.activations, Activation(nn.Identity())), link.next_site, link.next_weight)
    assert torch.equal(slope(link, s), slope(general, s))
    assert torch.equal(s, kept)


class Ways(nn.Module):
    """Two layers with what `name` says between them."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.first, self.second = name, nn.Linear(4, 4), nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        match self.name:
            case "norm":
                h = F.layer_norm(h, (4,))
            case "dropout":
                h = F.dropout(h)
            case "scale":
                h = h * self.scale
            case "tokens":
                h = h.unsqueeze(1)
            case "skip":
                return self.second(h.relu()) + h
            case "twice":
                return self.second(h.relu()) + self.second(h)
            case "kept before":
                g = torch.tanh(h)
                return self.second(torch.relu(h)) * g
            case "matmul":
                return h.relu() @ self.second.weight
            case "branch":
                h = h.relu() if bool(self.first.bias.sum() > 0) else h.tanh()
            case "last":
                return h.relu()
        return self.second(h)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("norm", "is followed by layer_norm, which is neither a linear layer nor an elementwise activation"),
        ("dropout", "is followed by dropout, which"),
        ("scale", "is followed by mul, which"),
        ("tokens", "is followed by unsqueeze, which"),
        ("skip", "has an output that several operations use"),
        ("twice", "has an output that several operations use"),
        ("kept before", "has an output that several operations use"),
        ("matmul", "is followed by 'second', which is neither a linear layer nor"),
        ("last", "is followed by the model's output, which is neither"),
    ],
)
def test_why_there_is_no_matrix(name: str, reason: str) -> None:
    site = look(Ways(name), torch.randn(2, 4)).sites["first"]
    assert site.link is None
    assert site.reason.startswith(reason)


def test_dropout_in_eval_mode_is_no_activation() -> None:
    model = Ways("dropout").eval()
    model.forward = lambda x: model.second(F.dropout(model.first(x), training=False).tanh())  # type: ignore[method-assign]
    assert [one.func for one in link_of(model, torch.randn(2, 4), "first").activations] == [torch.tanh] or [
        one.func for one in link_of(model, torch.randn(2, 4), "first").activations
    ] == [Tensor.tanh]


def test_a_token_stream_has_no_matrix() -> None:
    site = look(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)), torch.randn(2, 3, 4)).sites["0"]
    assert site.link is None
    assert site.reason == "has an output that is no vector"


LAYOUTS = {
    "plain": (PLAIN, (3, 4)),
    "second axis": (Layout(1), (2, 3, 4)),
    "last axis": (Layout(2), (2, 4, 3)),
    "folded": (Layout(0, True), (6, 4)),
    "folded, second axis": (Layout(1, True), (4, 6)),
    "interleaved": (Layout(0, True, True), (6, 4)),
    "interleaved, second axis": (Layout(1, True, True), (5, 6, 4)),
    "nowhere": (NOWHERE, (2, 5)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_by_sample_and_back(name: str) -> None:
    layout, shape = LAYOUTS[name]
    values = torch.arange(float(torch.Size(shape).numel())).view(shape)
    by_sample = layout.by_sample(values, 3)
    assert len(by_sample) == (1 if layout.axis is None else 3)
    assert torch.equal(layout.natural(by_sample), values)
    if layout.interleaved:
        assert torch.equal(by_sample[1], torch.stack([values.select(layout.axis or 0, k) for k in (1, 4)]))
    elif layout.folded:
        assert torch.equal(by_sample[1], values.movedim(layout.axis or 0, 0)[2:4])


def test_several_outputs_of_a_use_are_one_vector_a_sample() -> None:
    site = Site("lstm", ("w",), True, (Layout(0), Layout(1), Layout(1)))
    outputs = [torch.randn(3, 2, 4), torch.randn(1, 3, 4), torch.randn(1, 3, 4)]
    s = site.by_sample(outputs, 3)
    assert s.shape == (3, 16)
    assert torch.equal(s[1], torch.cat([outputs[0][1].flatten(), outputs[1][0, 1], outputs[2][0, 1]]))
    for one, other in zip(site.natural(s, [one.shape for one in outputs]), outputs, strict=True):
        assert torch.equal(one, other)
    alone = Site("lstm", ("w",), True, (NOWHERE,) * 3)
    together = alone.by_sample(outputs, 1)
    assert together.shape == (1, 48)
    for one, other in zip(alone.natural(together, [one.shape for one in outputs]), outputs, strict=True):
        assert torch.equal(one, other)


def test_two_ways_through_a_model_are_one_network() -> None:
    model = Ways("branch")
    x = torch.randn(6, 4)
    with torch.no_grad():
        model.first.bias.fill_(10)
        one = look(model, x)
        model.first.bias.fill_(-10)
        other = look(model, x)
    together = one.joined(other)
    assert one.sites["first"].link is not None
    assert other.sites["first"].link is not None
    assert together.sites["first"].link is None
    assert together.sites["first"].reason == "is followed by one thing or another, as values have it"
    assert together.unused == ("scale",)
    assert chain(4, 3)
