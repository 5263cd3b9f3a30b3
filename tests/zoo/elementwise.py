"""Parameters that meet data elementwise."""

import math

import torch
from torch import nn

from zoo.kinds import Net, kind, random, vectors, weight

kind(
    "class token",
    lambda: Net(
        lambda m, x: m.b(torch.tanh(m.a(torch.cat([m.t.expand(len(x), -1, -1), x], 1)))),
        a=nn.Linear(2, 2),
        b=nn.Linear(2, 2),
        t=weight(1, 1, 2),
    ),
    vectors(2, 2),
    "a",
    "b",
    pieces=("t",),
)
kind(
    "position embedding",
    lambda: Net(lambda m, x: m.b(torch.tanh(m.a(x) + m.p)), a=nn.Linear(2, 2), b=nn.Linear(2, 2), p=weight(1, 3, 2)),
    vectors(3, 2),
    "a",
    "b",
    pieces=("p",),
)
kind(
    "position embedding looked up",
    lambda: Net(
        lambda m, x: m.b(torch.tanh(m.a(x) + m.p(torch.arange(x.shape[1])))),
        a=nn.Linear(2, 2),
        b=nn.Linear(2, 2),
        p=nn.Embedding(4, 2),
    ),
    vectors(3, 2),
    "a",
    "p",
    "b",
)
kind(
    "relative bias",
    lambda: Net(
        lambda m, x: (m.a(x) @ x.mT + m.table[m.index.view(-1)].view(2, 2)).softmax(2) @ m.b(x),
        a=nn.Linear(2, 2),
        b=nn.Linear(2, 2),
        table=weight(3, 1),
        index=torch.tensor([[1, 0], [2, 1]]),
    ),
    vectors(2, 2),
    "a",
    "table",
    "b",
)
kind(
    "scalar gain",
    lambda: Net(
        lambda m, x: m.a(x).tanh() * m.g + m.h,
        a=nn.Linear(3, 2),
        g=nn.Parameter(random(1)[0]),
        h=nn.Parameter(random(2)),
    ),
    vectors(3),
    "a",
    pieces=("g", "h"),
)
kind(
    "gain of two axes",
    lambda: Net(lambda m, x: m.a(x).tanh() * m.g, a=nn.Linear(3, 2), g=weight(2, 2)),
    vectors(2, 3),
    "a",
    pieces=("g",),
)
kind(
    "bias apart",
    lambda: Net(lambda m, x: (m.a(x) + m.b[None]).tanh(), a=nn.Linear(3, 2, bias=False), b=weight(2)),
    vectors(3),
    "a",
    pieces=("b",),
)
kind(
    "prelu",
    lambda: nn.Sequential(nn.Linear(3, 2), nn.PReLU(2), nn.Linear(2, 2)),
    vectors(3),
    "0",
    "2",
    pieces=("1.weight",),
)
kind(
    "centres",
    lambda: Net(lambda m, x: m.a((-(x.unsqueeze(1) - m.c).square().sum(2)).exp()), c=weight(3, 2), a=nn.Linear(3, 2)),
    vectors(2),
    "a",
    pieces=("c",),
)
kind(
    "written into a buffer of zeros",
    lambda: Net(
        lambda m, x: m.b(
            torch.stack([x.new_zeros(x.shape), m.a(x)], 1).tanh()
            + torch.zeros(2, 2, dtype=x.dtype).index_copy(0, torch.tensor([1]), m.t)
        ),
        a=nn.Linear(2, 2),
        b=nn.Linear(2, 2),
        t=weight(1, 2),
    ),
    vectors(2),
    "a",
    "b",
    pieces=("t",),
)


def normed(norm: nn.Module, *shape: int) -> nn.Module:
    return Net(
        lambda m, x: m.b(torch.tanh(m.norm(m.a(x).view(len(x), *shape)).flatten(1))),
        a=nn.Linear(3, math.prod(shape)),
        norm=norm,
        b=nn.Linear(math.prod(shape), 2),
    )


AFFINE = ("norm.weight", "norm.bias")
kind("layer norm", lambda: normed(nn.LayerNorm(4, 0.5), 4), vectors(3), "a", "b", pieces=AFFINE)
kind("rms norm", lambda: normed(nn.RMSNorm(4, 0.5), 4), vectors(3), "a", "b", pieces=AFFINE[:1])
kind("group norm", lambda: normed(nn.GroupNorm(2, 4), 4, 2), vectors(3), "a", "b", pieces=AFFINE)
kind("instance norm", lambda: normed(nn.InstanceNorm1d(2, affine=True), 2, 3), vectors(3), "a", "b", pieces=AFFINE)
kind("batch norm", lambda: normed(nn.BatchNorm1d(3), 3), vectors(3), "a", "b", pieces=AFFINE, mixes=True)
kind("batch norm, eval", lambda: normed(nn.BatchNorm1d(3).eval(), 3), vectors(3), "a", "b", pieces=AFFINE)
kind(
    "batch norm 2d",
    lambda: nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4, 2)),
    vectors(1, 3, 2),
    "0",
    "4",
    pieces=("1.weight", "1.bias"),
    mixes=True,
)
kind(
    "batch norm without statistics",
    lambda: normed(nn.BatchNorm1d(3, track_running_stats=False).eval(), 3),
    vectors(3),
    "a",
    "b",
    pieces=AFFINE,
    mixes=True,
)
