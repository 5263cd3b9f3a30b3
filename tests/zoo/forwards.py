"""What forwards do."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

from zoo.kinds import Net, Pair, Result, kind, random, vectors, weight
from zoo.layers import NORMS, encoder_layer

kind(
    "dropout",
    lambda: nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Tanh(), nn.Linear(4, 2), nn.Dropout(0.3)),
    vectors(3),
    "0",
    "3",
)
kind(
    "dropout in place",
    lambda: nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5, inplace=True), nn.ReLU(), nn.Linear(4, 2)),
    vectors(3),
    "0",
    "3",
)
kind(
    "dropout of channels",
    lambda: nn.Sequential(nn.Conv1d(2, 3, 2), nn.Dropout1d(0.5), nn.Flatten(), nn.Linear(6, 2)),
    vectors(2, 3),
    "0",
    "3",
)
kind(
    "noise",
    lambda: Net(
        lambda m, x: m.b(m.a(x).tanh() * torch.rand(4, dtype=x.dtype) + torch.randn_like(x[:, :1])),
        a=nn.Linear(3, 4),
        b=nn.Linear(4, 2),
    ),
    vectors(3),
    "a",
    "b",
)
kind(
    "lstm with dropout",
    lambda: Net(lambda m, x: m.lstm(x)[0], lstm=nn.LSTM(2, 1, 2, batch_first=True, dropout=0.5)),
    vectors(2, 2),
    "lstm",
)
kind("encoder layer with dropout", lambda: encoder_layer(dropout=0.2), vectors(2, 2), pieces=NORMS)
kind("in place", lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)), vectors(3), "0", "2")


def written(m: Any, x: Tensor) -> Tensor:
    h = m.a(x)
    kept = torch.zeros_like(h)
    kept[:, 1:] = h[:, 1:]
    kept[:, 0].add_(h[:, 1].sin())
    return m.b(kept.tanh())


kind("written into", lambda: Net(written, a=nn.Linear(3, 3), b=nn.Linear(3, 2)), vectors(3), "a", "b")
kind(
    "branch on values",
    lambda: Net(
        lambda m, x: m.b(m.a(x)) if bool(m.a(x).sum() > 0) else m.c(m.a(x)).tanh(),
        a=nn.Linear(3, 2),
        b=nn.Linear(2, 2),
        c=nn.Linear(2, 2),
    ),
    vectors(3),
    unused=None,
)


def gated(m: Any, x: Tensor) -> Tensor:
    h = m.a(x) * 2
    with torch.no_grad():
        g = torch.sigmoid(m.gate(h)) + m.a.weight.norm()
        h.mul_(2)
    return m.b(h * g + h.detach())


kind(
    "no_grad within",
    lambda: Net(gated, a=nn.Linear(3, 3), gate=nn.Linear(3, 3), b=nn.Linear(3, 2)),
    vectors(3),
    "a",
    "b",
    unused=("gate.weight", "gate.bias"),
)


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))
    model[0].register_forward_hook(lambda *given: given[-1] * torch.arange(1.0, 4.0, dtype=torch.float64))
    model[2].register_forward_pre_hook(lambda _, given: (given[0].sin(),))
    return model


kind("hooks", hooked, vectors(3), "0", "2")
kind(
    "graph network",
    lambda: Net(
        lambda m, x: m.b(m.adjacency @ m.a(x).relu()),
        a=nn.Linear(3, 2),
        b=nn.Linear(2, 2),
        adjacency=torch.rand(4, 4, dtype=torch.float64),
    ),
    vectors(3),
    "a",
    "b",
    mixes=True,
    size=4,
)
kind(
    "centred by the batch",
    lambda: Net(lambda m, x: m.b(m.a(x) - m.a(x).mean(0)).tanh(), a=nn.Linear(3, 2), b=nn.Linear(2, 2)),
    vectors(3),
    "a",
    "a#2",
    "b",
    mixes=True,
)


def lengths(x: Tensor) -> Tensor:
    """As many entries a sample as the batch has on average, but the first three samples alike."""
    return torch.where(torch.arange(len(x)) < 3, 2, 1 + 2 * (torch.arange(len(x)) % 2))


def packed(m: Any, x: Tensor) -> Tensor:
    h = pack_padded_sequence(m.a(x), lengths(x), batch_first=True, enforce_sorted=False)
    return m.b(pad_packed_sequence(m.gru(h)[0], batch_first=True)[0].sum(1))


def selected(m: Any, x: Tensor) -> Tensor:
    kept = (torch.arange(3) < lengths(x)[:, None]).unsqueeze(2)
    h = m.a(torch.masked_select(x, kept).view(-1, 1)).sin()
    return m.b(torch.zeros_like(x).masked_scatter(kept, h).sum(1))


def joined(m: Any, x: Tensor) -> Tensor:
    sizes = lengths(x).tolist()
    h = m.a(torch.cat([one[:size] for one, size in zip(x, sizes, strict=True)])).sin()
    return m.b(torch.stack([one.sum(0) for one in h.split(sizes)]))


kind(
    "packed sequences",
    lambda: Net(packed, a=nn.Linear(1, 1), gru=nn.GRU(1, 1, batch_first=True), b=nn.Linear(1, 1)),
    vectors(3, 1),
    "a",
    "gru",
    "b",
    mixes=True,
)
kind("selected entries", lambda: Net(selected, a=nn.Linear(1, 1), b=nn.Linear(1, 1)), vectors(3, 1), mixes=True)
kind("sequences end to end", lambda: Net(joined, a=nn.Linear(1, 1), b=nn.Linear(1, 1)), vectors(3, 1), mixes=True)
kind(
    "divided by the batch's size",
    lambda: Net(lambda m, x: m.b(m.a(x) / len(x)), a=nn.Linear(3, 2), b=nn.Linear(2, 2)),
    vectors(3),
    "a",
    "b",
)
kind(
    "windows",
    lambda: Net(
        lambda m, x: m.b(torch.tanh(m.a(x.reshape(-1, 2, 2))).reshape(len(x), -1)), a=nn.Linear(2, 2), b=nn.Linear(8, 2)
    ),
    vectors(4, 2),
    "a",
    "b",
)
kind(
    "windows that take turns",
    lambda: Net(
        lambda m, x: m.b(
            torch.tanh(m.a(x.transpose(0, 1).reshape(-1, 2))).unflatten(0, (-1, len(x))).transpose(0, 1).flatten(1)
        ),
        a=nn.Linear(2, 2),
        b=nn.Linear(8, 2),
    ),
    vectors(4, 2),
    "a",
    "b",
)
kind(
    "outputs by name",
    lambda: Net(
        lambda m, x: {"logits": m.b(m.a(x).tanh()), "more": [m.a(x).exp(), 3]}, a=nn.Linear(3, 2), b=nn.Linear(2, 2)
    ),
    vectors(3),
    "a",
    "b",
    "a#2",
)
kind(
    "outputs in a tuple",
    lambda: Net(lambda m, x: (m.b(m.a(x).tanh()), None, x.argmax(1)), a=nn.Linear(3, 2), b=nn.Linear(2, 2)),
    vectors(3),
    "a",
    "b",
)
kind(
    "outputs in a named tuple",
    lambda: Net(lambda m, x: Pair(m.b(m.a(x).tanh()), x), a=nn.Linear(3, 2), b=nn.Linear(2, 2)),
    vectors(3),
    "a",
    "b",
)
kind(
    "outputs in a dataclass",
    lambda: Net(lambda m, x: Result(m.b(m.a(x).tanh()), (x,)), a=nn.Linear(3, 2), b=nn.Linear(2, 2)),
    vectors(3),
    "a",
    "b",
)
kind(
    "inputs by name",
    lambda: Net(lambda m, left, right: m.b(m.a(left).tanh() * right), a=nn.Linear(3, 2), b=nn.Linear(2, 2)),
    lambda size: {"left": random(size, 3), "right": random(size, 2)},
    "a",
    "b",
)
kind(
    "inputs in a tuple",
    lambda: Net(
        lambda m, x, ids: m.b(m.a(x).tanh() * m.e(ids)), a=nn.Linear(3, 2), b=nn.Linear(2, 2), e=nn.Embedding(5, 2)
    ),
    lambda size: (random(size, 3), torch.randint(5, (size,))),
    "a",
    "e",
    "b",
)
kind(
    "an output of one number a sample",
    lambda: Net(lambda m, x: m.a(x).tanh().sum(1), a=nn.Linear(3, 2)),
    vectors(3),
    "a",
)
kind(
    "a weight that is used elementwise too",
    lambda: Net(
        lambda m, x: m.b(m.a(x).tanh() * m.a.weight[0].sin()) + m.b.weight[:, 0] * x[:, :2] + m.b.bias,
        a=nn.Linear(3, 3),
        b=nn.Linear(3, 2),
    ),
    vectors(3),
)
kind(
    "attention's product",
    lambda: Net(
        lambda m, x: m.o(F.scaled_dot_product_attention(m.q(x), m.k(x), m.v(x))),
        q=nn.Linear(2, 2),
        k=nn.Linear(2, 2),
        v=nn.Linear(2, 2),
        o=nn.Linear(2, 2),
    ),
    vectors(2, 2),
    "q",
    "k",
    "v",
    "o",
)
kind(
    "residual stream",
    lambda: Net(
        lambda m, x: m.out((h := m.enter(x)) + m.b(m.a(h).relu()) + x),
        enter=nn.Linear(3, 3),
        a=nn.Linear(3, 2),
        b=nn.Linear(2, 3),
        out=nn.Linear(3, 2),
    ),
    vectors(3),
    "enter",
    "a",
    "b",
    "out",
)
kind(
    "a list of layers",
    lambda: Net(
        lambda m, x: [x := layer(x).tanh() for layer in m.layers][-1],
        layers=nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 2)]),
    ),
    vectors(3),
    "layers.0",
    "layers.1",
)
kind(
    "parameters in a list",
    lambda: Net(lambda m, x: (x @ m.w[0]).tanh() @ m.w[1], w=nn.ParameterList([weight(3, 2), weight(2, 2)])),
    vectors(3),
    "w.0",
    "w.1",
)
kind(
    "checkpointed",
    lambda: Net(
        lambda m, x: m.b(checkpoint(m.a, x, use_reentrant=False).tanh()),
        a=nn.Linear(3, 2),
        b=nn.Linear(2, 2),
    ),
    vectors(3),
    "a",
    "b",
)
