"""Networks of torch's own layers as others build them, and graph networks: the rest of public_networks.py's."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from public_networks import CLASSES, VOCABULARY, images, network, tokens, vectors, wide
from torch import Tensor, nn


class UNet(nn.Module):
    """Two levels, skips by concatenation, transposed convolutions upwards (Ronneberger et al. 2015)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down1, self.down2 = self._block(3, width), self._block(width, 2 * width)
        self.bottom = self._block(2 * width, 4 * width)
        self.up2, self.up1 = (nn.ConvTranspose2d(2 * n * width, n * width, 2, stride=2) for n in (2, 1))
        self.join2, self.join1 = self._block(4 * width, 2 * width), self._block(2 * width, width)
        self.head = nn.Conv2d(width, CLASSES, 1)

    def _block(self, before: int, after: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(4, after), nn.ReLU(inplace=True),
            nn.Conv2d(after, after, 3, padding=1), nn.GroupNorm(4, after), nn.ReLU(inplace=True),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        up = self.up2(self.bottom(F.max_pool2d(two, 2)))
        up = self.up1(self.join2(torch.cat([up, two], 1)))
        return self.head(self.join1(torch.cat([up, one], 1)))


class Sequences(nn.Module):
    """A recurrent layer over tokens, and a classifier of its last output."""

    def __init__(self, kind: Callable[..., nn.RNNBase], width: int, **options: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width, padding_idx=0)
        self.recurrent = kind(width, width, batch_first=True, **options)
        self.head = nn.Linear(width * (2 if options.get("bidirectional") else 1), CLASSES)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.recurrent(self.embed(input_ids))[0][:, -1])


class Attention(nn.Module):
    """nn.MultiheadAttention with a causal and a padding mask."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(5, width), nn.Linear(width, CLASSES)
        self.attention, self.norm = nn.MultiheadAttention(width, 2, dropout=0.1, batch_first=True), nn.LayerNorm(width)

    def forward(self, x: Tensor, padded: Tensor) -> Tensor:
        x = self.enter(x)
        causal = torch.triu(torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device), 1)
        x = self.norm(x + self.attention(x, x, x, key_padding_mask=padded, attn_mask=causal, need_weights=False)[0])
        return self.head(x.mean(1))


class Encoder(nn.Module):
    """nn.TransformerEncoder with a padding mask."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(5, width), nn.Linear(width, CLASSES)
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor, padded: Tensor) -> Tensor:
        return self.head(self.encoder(self.enter(x), src_key_padding_mask=padded).mean(1))


class Translation(nn.Module):
    """nn.Transformer, encoder and decoder."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.source, self.target = nn.Linear(5, width), nn.Linear(5, width)
        self.transformer = nn.Transformer(width, 2, 1, 1, 2 * width, batch_first=True)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1], dtype=target.dtype)
        return self.head(self.transformer(self.source(source), self.target(target), tgt_mask=mask, tgt_is_causal=True))


class Bare(nn.Module):
    """Attention by einsum from bare parameters, with a learned temperature (as in lucidrains' vit-pytorch)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Parameter(torch.randn(3, 2, 5, width) / math.sqrt(5))
        self.out = nn.Parameter(torch.randn(2, width, CLASSES) / math.sqrt(2 * width))
        self.temperature = nn.Parameter(torch.zeros(2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = torch.einsum("bnd,thde->tbhne", x, self.qkv)
        weights = (torch.einsum("bhne,bhme->bhnm", q, k) / math.sqrt(q.shape[-1]) * self.temperature.exp()).softmax(-1)
        return torch.einsum("bhne,hec->bc", weights @ v, self.out) / x.shape[1]


class Bag(nn.Module):
    """nn.EmbeddingBag, the classifier of fastText."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(VOCABULARY, width)
        self.layers = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES))

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.layers(self.bag(input_ids))


def generator(size: int) -> nn.Module:
    """The generator of a DCGAN."""
    width = 8 * size
    return nn.Sequential(
        nn.ConvTranspose2d(6, 2 * width, 4, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(True),
        nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(True),
        nn.ConvTranspose2d(width, CLASSES, 4, 2, 1, bias=False), nn.Tanh(),
    )  # fmt: skip


def depthwise(size: int) -> nn.Module:
    """Grouped and depthwise convolutions, as in ResNeXt and MobileNet."""
    width = 8 * size
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 2, 1), nn.GroupNorm(4, width), nn.ReLU6(True),
        nn.Conv2d(width, width, 3, 2, 1, groups=width), nn.ReLU6(True), nn.Conv2d(width, 2 * width, 1),
        nn.Conv2d(2 * width, 2 * width, 3, 1, "same", groups=4, padding_mode="reflect"), nn.Hardswish(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, CLASSES),
    )  # fmt: skip


def temporal(size: int) -> nn.Module:
    """Dilated convolutions in one dimension with weight_norm, as in a TCN."""
    from torch.nn.utils.parametrizations import weight_norm

    width = 8 * size
    return nn.Sequential(
        weight_norm(nn.Conv1d(3, width, 3, padding=2, dilation=2)), nn.ReLU(), nn.Dropout(0.1),
        weight_norm(nn.Conv1d(width, width, 3, padding=4, dilation=4)), nn.ReLU(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(width, CLASSES),
    )  # fmt: skip


def volumes(size: int) -> nn.Module:
    """Convolutions in three dimensions."""
    return nn.Sequential(
        nn.Conv3d(1, 4 * size, 3, 2, 1), nn.GroupNorm(2, 4 * size), nn.SiLU(), nn.MaxPool3d(2),
        nn.Conv3d(4 * size, 8 * size, 2), nn.SiLU(), nn.Flatten(), nn.Linear(8 * size, CLASSES),
    )  # fmt: skip


class Graph(nn.Module):
    """A graph network of torch_geometric over one fixed graph: the first axis is its nodes."""

    def __init__(self, kind: str, size: int, nodes: int) -> None:
        super().__init__()
        import torch_geometric.nn as layers  # pyright: ignore[reportMissingImports]

        self.one, self.two = getattr(layers, kind)(5, 8 * size), getattr(layers, kind)(8 * size, CLASSES)
        ring = torch.arange(nodes)
        self.register_buffer("edges", torch.stack([torch.cat([ring, ring]), torch.cat([ring.roll(1), ring.roll(3)])]))

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x, self.edges).relu(), self.edges)


def padded(samples: int, size: int) -> dict[str, Tensor]:
    x = torch.randn(samples, 6 if size == 1 else 24, 5)
    mask = torch.zeros(x.shape[:2], dtype=torch.bool)
    mask[1::2, -2:] = True
    return {"x": x, "padded": mask}


def sources(samples: int, size: int) -> dict[str, Tensor]:
    return {"source": torch.randn(samples, 6, 5), "target": torch.randn(samples, 4, 5)}


def nodes(samples: int, size: int) -> Tensor:
    return torch.randn(12, 5)


network("U-Net", "torch", lambda size: UNet(8 * size), images(), channels_first=True)
network("DCGAN's generator", "torch", generator, vectors(6, 1, 1), channels_first=True)
network("Grouped and depthwise convolutions", "torch", depthwise, images())
network("Convolutions in 3 dimensions", "torch", volumes, vectors(1, 8, 8, 8))
network("TCN, weight_norm", "torch", temporal, vectors(3, 32))
network("LSTM", "torch", lambda size: Sequences(nn.LSTM, wide(size)), tokens)
network(
    "LSTM, two layers and directions, dropout", "torch",
    lambda size: Sequences(nn.LSTM, wide(size), num_layers=2, bidirectional=True, dropout=0.1), tokens,
)  # fmt: skip
network("GRU", "torch", lambda size: Sequences(nn.GRU, wide(size)), tokens)
network("nn.MultiheadAttention, two masks", "torch", lambda size: Attention(wide(size)), padded)
network("nn.TransformerEncoder, padding mask", "torch", lambda size: Encoder(wide(size)), padded)
network("nn.Transformer", "torch", lambda size: Translation(wide(size)), sources)
network("einsum and bare parameters", "torch", lambda size: Bare(8 * size), vectors(6, 5))
network("EmbeddingBag", "torch", lambda size: Bag(wide(size)), tokens)
network("GCN", "torch_geometric", lambda size: Graph("GCNConv", size, 12), nodes)
network("GAT", "torch_geometric", lambda size: Graph("GATConv", size, 12), nodes)
