"""Ways to use a weight."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from zoo.kinds import Net, ids, kind, vectors, weight


def tied() -> nn.Module:
    model = Net(
        lambda m, x: m.head(torch.tanh(m.mix(m.embed(x)))),
        embed=nn.Embedding(5, 3),
        mix=nn.Linear(3, 3),
        head=nn.Linear(3, 5, bias=False),
    )
    head: Any = model.head
    head.weight = model.get_parameter("embed.weight")
    return model


def frozen_tie() -> nn.Module:
    model = tied()
    model.embed.requires_grad_(False)
    return model


def two_names() -> nn.Module:
    model = Net(lambda m, x: m.head(torch.tanh(m.hidden(x))), hidden=nn.Linear(4, 3), output=nn.Linear(3, 2))
    model.head = model.output
    return model


kind("tied", tied, ids(), "embed", "mix", "embed#2")
kind("frozen tie", frozen_tie, ids(), "embed", "mix", "embed#2")
kind("called twice", lambda: Net(lambda m, x: m.a(torch.tanh(m.a(x))), a=nn.Linear(3, 3)), vectors(3), "a", "a#2")
kind("two names", two_names, vectors(4), "hidden", "output")
kind(
    "weight beside its layer",
    lambda: Net(lambda m, x: m.b(torch.tanh(m.a(x))) + F.linear(x, m.a.weight), a=nn.Linear(3, 3), b=nn.Linear(3, 3)),
    vectors(3),
    "a",
    "b",
    "a#2",
)
kind(
    "bare parameter",
    lambda: Net(
        lambda m, x: F.linear(torch.tanh(F.linear(x, m.w, m.b)), m.v), w=weight(3, 4), b=weight(3), v=weight(2, 3)
    ),
    vectors(4),
    "w",
    "v",
)
kind(
    "keywords",
    lambda: Net(
        lambda m, x: F.linear(input=torch.tanh(m.a(input=x)), weight=m.w, bias=m.b),
        a=nn.Linear(4, 3),
        w=weight(2, 3),
        b=weight(2),
    ),
    vectors(4),
    "a",
    "w",
)
kind(
    "einsum",
    lambda: Net(
        lambda m, x: torch.einsum("bi,hij->bhj", torch.einsum("oi,bi->bo", m.w, x).tanh(), m.v),
        w=weight(3, 4),
        v=weight(2, 3, 2),
    ),
    vectors(4),
    "w",
    "v",
)
kind(
    "matmul from the right",
    lambda: Net(lambda m, x: (x @ m.w).tanh() @ m.v, w=weight(4, 3), v=weight(3, 2)),
    vectors(4),
    "w",
    "v",
)
kind(
    "matmul from the left",
    lambda: Net(lambda m, x: m.w @ torch.tanh(torch.matmul(m.v, x.unsqueeze(2))), w=weight(2, 3), v=weight(3, 4)),
    vectors(4),
    "v",
    "w",
)
kind(
    "weight times a batch of columns",
    lambda: Net(lambda m, x: m.w @ torch.tanh(m.v @ x.T), w=weight(2, 3), v=weight(3, 4)),
    vectors(4),
    "v",
    "w",
)
kind(
    "addmm",
    lambda: Net(
        lambda m, x: torch.addmm(m.c, torch.tanh(torch.addmm(m.b, x.view(-1, x.size(-1)), m.w)), m.v).view(
            *x.shape[:-1], 2
        ),
        w=weight(4, 3),
        b=weight(3),
        v=weight(3, 2),
        c=weight(2),
    ),
    vectors(2, 4),
    "w",
    "v",
)
kind(
    "view of a weight",
    lambda: Net(lambda m, x: (x @ m.w.t()).tanh() @ m.w.view(3, 4)[:, :2], w=weight(3, 4)),
    vectors(4),
    "w",
    "w#2",
)
kind(
    "several weights as one",
    lambda: Net(lambda m, x: F.linear(x, torch.cat([m.w, m.v])).tanh(), w=weight(2, 4), v=weight(1, 4)),
    vectors(4),
)
kind(
    "chunks of one weight",
    lambda: Net(lambda m, x: torch.cat([F.linear(x, one).tanh() for one in m.w.chunk(2)], 1), w=weight(4, 3)),
    vectors(3),
)
kind(
    "one weight a sample",
    lambda: Net(lambda m, x: torch.bmm(x.unsqueeze(1), m.w.expand(len(x), -1, -1)).tanh().squeeze(1), w=weight(4, 3)),
    vectors(4),
    "w",
)
kind(
    "standardised weight",
    lambda: Net(
        lambda m, x: F.linear(x, (m.w - m.w.mean(1, True)) / m.w.std(1, keepdim=True), m.b).tanh(),
        w=weight(3, 4),
        b=weight(3),
    ),
    vectors(4),
)
kind(
    "multi_dot",
    lambda: Net(lambda m, x: torch.linalg.multi_dot([x, m.w, m.v]).tanh(), w=weight(4, 3), v=weight(3, 2)),
    vectors(4),
)
kind(
    "complex of two real ones",
    lambda: Net(
        lambda m, x: m.out(torch.fft.irfft(torch.fft.rfft(m.a(x)) @ torch.view_as_complex(m.w), n=4)),
        a=nn.Linear(3, 4),
        w=weight(3, 3, 2),
        out=nn.Linear(4, 2),
    ),
    vectors(3),
    "a",
    "out",
    pieces=("w",),
)
kind(
    "dropped weights",
    lambda: Net(lambda m, x: m.out(F.linear(x, F.dropout(m.w, 0.5)).tanh()), w=weight(3, 4), out=nn.Linear(3, 2)),
    vectors(4),
    "w",
    "out",
)
kind(
    "noisy weights",
    lambda: Net(
        lambda m, x: m.out(F.linear(x, m.w + torch.randn_like(m.w)).tanh()), w=weight(3, 4), out=nn.Linear(3, 2)
    ),
    vectors(4),
    "out",
    pieces=("w",),
)
kind("bilinear", lambda: Net(lambda m, x: m.a(x, x.tanh()), a=nn.Bilinear(3, 3, 2)), vectors(3), "a")
kind(
    "tensordot",
    lambda: Net(lambda m, x: torch.tensordot(x, m.w, 2).tanh(), w=weight(2, 3, 2)),
    vectors(2, 3),
    "w",
)
kind(
    "a weight that data makes",
    lambda: Net(lambda m, x: F.linear(x, m.a(x.mean(0)).view(2, 4)), a=nn.Linear(4, 8)),
    vectors(4),
    "a",
)
kind(
    "adapter",
    lambda: Net(
        lambda m, x: m.out(torch.tanh(m.base(x) + 2 * m.up(m.down(x)))),
        base=nn.Linear(4, 3).requires_grad_(False),
        down=nn.Linear(4, 2, bias=False),
        up=nn.Linear(2, 3, bias=False),
        out=nn.Linear(3, 2).requires_grad_(False),
    ),
    vectors(4),
    "base",
    "down",
    "up",
    "out",
)
kind(
    "frozen part",
    lambda: nn.Sequential(nn.Linear(4, 3).requires_grad_(False), nn.Tanh(), nn.Linear(3, 2)),
    vectors(4),
    "0",
    "2",
)
kind(
    "frozen bias",
    lambda: Net(lambda m, x: F.linear(x, m.w, m.b).tanh(), w=weight(3, 4), b=weight(3).requires_grad_(False)),
    vectors(4),
    "w",
)
kind(
    "unused",
    lambda: Net(lambda m, x: m.a(x).tanh(), a=nn.Linear(4, 3), b=nn.Linear(3, 3)),
    vectors(4),
    "a",
    unused=("b.weight", "b.bias"),
)
