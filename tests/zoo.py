"""Small modules of every kind that a forward may be made of, in float64, each with inputs for it."""
# ruff: noqa: E501, RUF100
# fmt: off

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import checkpoint

Forward = Callable[..., Any]


class Net(nn.Module):
    """Modules and parameters by name, and a forward of them: `forward(self, *inputs)`."""

    def __init__(self, forward: Forward, **parts: Any) -> None:
        super().__init__()
        self.function = forward
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        return self.function(self, *inputs, **keywords)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.get_default_dtype())


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(random(*shape) / math.sqrt(shape[-1]))


def vectors(*shape: int) -> Callable[[int], Any]:
    return lambda size: random(size, *shape)


def ids(*shape: int, below: int = 5) -> Callable[[int], Any]:
    return lambda size: torch.randint(below, (size, *shape))


@dataclass(frozen=True)
class Kind:
    """A module of the zoo."""

    make: Callable[[], nn.Module]
    inputs: Callable[[int], Any]
    sites: tuple[str, ...] | None = None
    """The names of its sites, in order."""
    pieces: tuple[str, ...] = ()
    """Its trained parameters that no site covers."""
    mixes: bool = False
    size: int | None = None
    """The only size of a batch that it takes."""
    dtype: torch.dtype = torch.float64
    unused: tuple[str, ...] = ()
    kept: Mapping[str, Any] = field(default_factory=dict)


class Pair(NamedTuple):
    logits: Tensor
    hidden: Tensor


@dataclass
class Result:
    logits: Tensor
    hidden: tuple[Tensor, ...]
    length: int = field(init=False, default=3)


ZOO: dict[str, Kind] = {}


def kind(name: str, make: Callable[[], nn.Module], inputs: Callable[[int], Any], *sites: str, **more: Any) -> None:
    ZOO[name] = Kind(make, inputs, sites or None, **more)


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


# Ways to use a weight.
kind("tied", tied, ids(), "embed", "mix", "embed#2")
kind("frozen tie", frozen_tie, ids(), "embed", "mix", "embed#2")
kind("called twice", lambda: Net(lambda m, x: m.a(torch.tanh(m.a(x))), a=nn.Linear(3, 3)), vectors(3), "a", "a#2")
kind("two names", two_names, vectors(4), "hidden", "output")
kind(
    "weight beside its layer",
    lambda: Net(lambda m, x: m.b(torch.tanh(m.a(x))) + F.linear(x, m.a.weight), a=nn.Linear(3, 3), b=nn.Linear(3, 3)),
    vectors(3),
    "a", "b", "a#2",
)  # fmt: skip
kind(
    "bare parameter",
    lambda: Net(lambda m, x: F.linear(torch.tanh(F.linear(x, m.w, m.b)), m.v), w=weight(3, 4), b=weight(3), v=weight(2, 3)),
    vectors(4),
    "w", "v",
)  # fmt: skip
kind(
    "keywords",
    lambda: Net(
        lambda m, x: F.linear(input=torch.tanh(m.a(input=x)), weight=m.w, bias=m.b),
        a=nn.Linear(4, 3), w=weight(2, 3), b=weight(2),
    ),
    vectors(4),
    "a", "w",
)  # fmt: skip
kind(
    "einsum",
    lambda: Net(
        lambda m, x: torch.einsum("bi,hij->bhj", torch.einsum("oi,bi->bo", m.w, x).tanh(), m.v), w=weight(3, 4), v=weight(2, 3, 2)
    ),
    vectors(4),
    "w", "v",
)  # fmt: skip
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
    "v", "w",
)  # fmt: skip
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
        lambda m, x: torch.addmm(m.c, torch.tanh(torch.addmm(m.b, x.view(-1, x.size(-1)), m.w)), m.v).view(*x.shape[:-1], 2),
        w=weight(4, 3), b=weight(3), v=weight(3, 2), c=weight(2),
    ),
    vectors(2, 4),
    "w", "v",
)  # fmt: skip
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
        base=nn.Linear(4, 3).requires_grad_(False), down=nn.Linear(4, 2, bias=False), up=nn.Linear(2, 3, bias=False),
        out=nn.Linear(3, 2).requires_grad_(False),
    ),
    vectors(4),
    "base", "down", "up", "out",
)  # fmt: skip
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

# Layers.
kind(
    "conv1d",
    lambda: nn.Sequential(nn.Conv1d(2, 2, 3, 2, 1), nn.Tanh(), nn.Conv1d(2, 2, 2, dilation=2, groups=2)),
    vectors(2, 6),
)
kind(
    "conv2d",
    lambda: nn.Sequential(nn.Conv2d(2, 2, (2, 3), padding=(1, 0)), nn.Tanh(), nn.Conv2d(2, 2, 2, groups=2, bias=False)),
    vectors(2, 2, 4),
)
kind(
    "conv2d same",
    lambda: nn.Sequential(
        nn.Conv2d(1, 2, 3, padding="same"), nn.GELU(), nn.Conv2d(2, 1, 3, padding=1, padding_mode="circular")
    ),
    vectors(1, 3, 2),
)
kind("conv3d", lambda: nn.Sequential(nn.Conv3d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(4, 2)), vectors(1, 2, 2, 3))
kind(
    "transposed 1d", lambda: nn.Sequential(nn.ConvTranspose1d(2, 2, 3, 2, 1), nn.Tanh(), nn.Linear(3, 2)), vectors(2, 2)
)
kind(
    "transposed 2d",
    lambda: nn.Sequential(nn.ConvTranspose2d(2, 2, 2, groups=2), nn.Tanh(), nn.Flatten(), nn.Linear(12, 2)),
    vectors(2, 1, 2),
)
kind("transposed 3d", lambda: nn.Sequential(nn.ConvTranspose3d(1, 2, (1, 2, 2)), nn.Tanh()), vectors(1, 1, 1, 2))
kind("tokens", lambda: nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2)), vectors(2, 2, 3), "0", "2")
kind("embedding", lambda: nn.Sequential(nn.Embedding(5, 2), nn.Tanh(), nn.Flatten(), nn.Linear(6, 2)), ids(3), "0", "3")
kind("embedding bag", lambda: nn.Sequential(nn.EmbeddingBag(5, 3), nn.Tanh(), nn.Linear(3, 2)), ids(3), "0", "2")
kind(
    "embedding bag of sums",
    lambda: nn.Sequential(nn.EmbeddingBag(5, 3, mode="sum"), nn.Tanh(), nn.Linear(3, 2)),
    ids(3),
    "0",
    "2",
)
kind("indexed weight", lambda: Net(lambda m, x: m.a(m.w[x].tanh()), w=weight(5, 3), a=nn.Linear(3, 2)), ids(), "w", "a")
kind(
    "index_select",
    lambda: Net(lambda m, x: m.a(torch.index_select(m.w, 0, x).tanh()), w=weight(5, 3), a=nn.Linear(3, 2)),
    ids(),
    "w",
    "a",
)
kind(
    "lstm",
    lambda: Net(lambda m, x: m.a(m.lstm(x)[0][:, -1]), lstm=nn.LSTM(2, 2, batch_first=True), a=nn.Linear(2, 2)),
    vectors(2, 2),
    "lstm",
    "a",
)
kind(
    "lstm, its states", lambda: Net(lambda m, x: m.lstm(x), lstm=nn.LSTM(2, 2, batch_first=True)), vectors(2, 2), "lstm"
)
kind(
    "lstm, two directions and layers",
    lambda: Net(lambda m, x: m.lstm(x)[0], lstm=nn.LSTM(2, 1, 2, batch_first=True, bidirectional=True)),
    vectors(2, 2),
    "lstm",
)
kind(
    "lstm, time first",
    lambda: Net(lambda m, x: m.a(m.lstm(x.transpose(0, 1))[0]), lstm=nn.LSTM(2, 2), a=nn.Linear(2, 2)),
    vectors(2, 2),
    "lstm",
    "a",
)
kind(
    "lstm in float32",
    lambda: Net(lambda m, x: m.a(m.lstm(x)[0][:, -1]), lstm=nn.LSTM(2, 2, batch_first=True), a=nn.Linear(2, 2)),
    vectors(2, 2),
    dtype=torch.float32,
)
kind(
    "gru",
    lambda: Net(lambda m, x: m.a(m.gru(x)[1][0]), gru=nn.GRU(2, 2, batch_first=True), a=nn.Linear(2, 2)),
    vectors(2, 2),
    "gru",
    "a",
)
kind("rnn", lambda: Net(lambda m, x: m.rnn(x)[0], rnn=nn.RNN(2, 2, batch_first=True)), vectors(2, 2), "rnn")
kind(
    "relu rnn",
    lambda: Net(lambda m, x: m.rnn(x)[0], rnn=nn.RNN(2, 2, batch_first=True, nonlinearity="relu")),
    vectors(2, 2),
    "rnn",
)
kind(
    "lstm cell",
    lambda: Net(lambda m, x: m.cell(x[:, 1], m.cell(x[:, 0]))[0], cell=nn.LSTMCell(2, 2)),
    vectors(2, 2),
    "cell",
    "cell#2",
)
kind(
    "gru cell",
    lambda: Net(lambda m, x: m.cell(x[:, 1], m.cell(x[:, 0])), cell=nn.GRUCell(2, 2)),
    vectors(2, 2),
    "cell",
    "cell#2",
)
kind(
    "rnn cell in float32",
    lambda: Net(lambda m, x: m.cell(x[:, 1], m.cell(x[:, 0])), cell=nn.RNNCell(2, 2)),
    vectors(2, 2),
    dtype=torch.float32,
)


def causal(size: int) -> Tensor:
    return torch.triu(torch.ones(size, size, dtype=torch.bool), 1)


MASK = torch.tensor([[False, False, True], [False, False, False], [False, True, True]])
kind(
    "attention",
    lambda: Net(lambda m, x: m.mha(x, x, x)[0], mha=nn.MultiheadAttention(2, 2, batch_first=True)),
    vectors(2, 2),
)
kind(
    "attention, time first",
    lambda: Net(lambda m, x: m.mha(*3 * [x.transpose(0, 1)], need_weights=False)[0], mha=nn.MultiheadAttention(2, 1)),
    vectors(2, 2),
)
kind(
    "attention, masked",
    lambda: Net(lambda m, x: m.mha(x, x, x, attn_mask=causal(2))[0], mha=nn.MultiheadAttention(2, 2, batch_first=True)),
    vectors(2, 2),
)
kind(
    "attention, padded",
    lambda: Net(
        lambda m, x, p: m.mha(x, x, x, key_padding_mask=p)[0], mha=nn.MultiheadAttention(2, 1, batch_first=True)
    ),
    lambda size: (random(size, 3, 2), MASK[torch.arange(size) % 3]),
)
kind(
    "attention to others",
    lambda: Net(
        lambda m, x: m.mha(x, x[..., :1], x[..., 1:])[0],
        mha=nn.MultiheadAttention(2, 2, kdim=1, vdim=1, batch_first=True),
    ),
    vectors(2, 2),
)
kind(
    "attention with bias_k",
    lambda: Net(lambda m, x: m.mha(x, x, x)[0], mha=nn.MultiheadAttention(2, 1, batch_first=True, add_bias_kv=True)),
    vectors(2, 2),
    pieces=("mha.bias_k", "mha.bias_v"),
)
NORMS = ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias")


def encoder_layer(**options: Any) -> nn.Module:
    return nn.TransformerEncoderLayer(2, 1, 3, batch_first=True, layer_norm_eps=0.5, **options)


kind(
    "encoder layer",
    encoder_layer,
    vectors(2, 2),
    "self_attn.in_proj_weight",
    "self_attn.out_proj",
    "linear1",
    "linear2",
    pieces=NORMS,
)
kind("encoder layer, eval", lambda: encoder_layer().eval(), vectors(2, 2), pieces=NORMS)
kind(
    "encoder layer, norm first",
    lambda: encoder_layer(norm_first=True, activation="gelu").eval(),
    vectors(2, 2),
    pieces=NORMS,
)

# Weights and biases that are made.
kind(
    "weight norm",
    lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 3)), nn.Tanh(), nn.Linear(3, 2)),
    vectors(4),
    "0",
    "2",
)
kind(
    "spectral norm",
    lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 3)).eval(), nn.Tanh(), nn.Linear(3, 2)),
    vectors(4),
    "0",
    "2",
    pieces=("0.bias",),
)
kind(
    "orthogonal",
    lambda: nn.Sequential(parametrizations.orthogonal(nn.Linear(2, 2)), nn.Tanh()),
    vectors(2),
    "0",
    pieces=("0.bias",),
)


class Softplus(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.softplus(x)


def made_bias() -> nn.Module:
    layer = nn.Linear(4, 3)
    parametrize.register_parametrization(layer, "bias", Softplus())
    return nn.Sequential(layer, nn.Tanh(), nn.Linear(3, 2))


def pruned() -> nn.Module:
    layer = nn.Linear(4, 3)
    prune.custom_from_mask(layer, "weight", torch.tensor([[1, 0, 1, 1], [0, 1, 1, 0], [1, 1, 0, 1]]))
    return Net(lambda m, x: m.head(torch.tanh(m.layer(x))), layer=layer, head=nn.Linear(3, 2))


kind("made bias", made_bias, vectors(4), "0", "2")
kind("pruned", pruned, vectors(4), pieces=("layer.weight_orig", "layer.bias"))

# Elementwise parameters.
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
        a=nn.Linear(2, 2), b=nn.Linear(2, 2), table=weight(3, 1), index=torch.tensor([[1, 0], [2, 1]]),
    ),
    vectors(2, 2),
    "a", "table", "b",
)  # fmt: skip
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

# What forwards do.
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


def made(name: str) -> nn.Module:
    """A model of the zoo."""
    torch.manual_seed(sum(map(ord, name)))
    before = torch.get_default_dtype()
    torch.set_default_dtype(ZOO[name].dtype)
    try:
        return ZOO[name].make()
    finally:
        torch.set_default_dtype(before)


def inputs_of(name: str, size: int) -> Any:
    torch.manual_seed(5)
    before = torch.get_default_dtype()
    torch.set_default_dtype(ZOO[name].dtype)
    try:
        return ZOO[name].inputs(ZOO[name].size or size)
    finally:
        torch.set_default_dtype(before)
