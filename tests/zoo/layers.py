"""Layers, and layers whose weights and biases are made."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from zoo.kinds import Net, ids, kind, random, vectors, weight

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
kind(
    "embedding bag of offsets",
    lambda: Net(
        lambda m, x: m.out(m.bag(x.flatten(), torch.arange(len(x)) * 3).tanh()),
        bag=nn.EmbeddingBag(5, 2),
        out=nn.Linear(2, 2),
    ),
    ids(3),
    "bag",
    "out",
)
kind(
    "counted in the batch",
    lambda: nn.Sequential(nn.Embedding(5, 2, scale_grad_by_freq=True), nn.Flatten(), nn.Tanh(), nn.Linear(4, 2)),
    ids(2),
    "0",
    "3",
)
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
