"""Small networks and batches that several tests share, in float64."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.estimator import Batch, Loss
from fgcli.gradient.guess import GuessMethod, Layer, LinearMap, Memory
from fgcli.gradient.upstream import UpstreamJacobian


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="none")


def chain(*widths: int, bias: bool = False, activation: type[nn.Module] = nn.ReLU, seed: int = 0) -> nn.Sequential:
    """Linear layers of these widths with activations between; weights well above PyTorch's default scale."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for d_in, d_out in pairwise(widths):
        layers += [nn.Linear(d_in, d_out, bias=bias), activation()]
    model = nn.Sequential(*layers[:-1]).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model


class Residual(nn.Module):
    """Conv2d, then Linear layers with LayerNorm and a residual connection, functional activations."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(3, 6, 2, groups=3, bias=False)
        self.enter = nn.Linear(24, 6)
        self.norm = nn.LayerNorm(6)
        self.inner = nn.Linear(6, 6, bias=False)
        self.leave = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.grouped(torch.tanh(self.conv(x)))).flatten(1)
        x = self.enter(x)
        x = x + F.relu(self.inner(self.norm(x)))
        return self.leave(x)


def residual() -> Residual:
    torch.manual_seed(1)
    return Residual().double()


def layers_that_draw(options: object, input_shape: tuple[int], classes: int, generator: object) -> nn.Module:
    """A plugin's model with Dropout, weights by torch's own start, and a BatchNorm in eval mode."""
    norm = nn.BatchNorm1d(8).eval()
    return nn.Sequential(
        nn.Linear(*input_shape, 8), norm, nn.Dropout(0.5), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, classes)
    )


class Convolutions(nn.Module):
    """Convolutions with GroupNorm and both kinds of pooling, in one or two dimensions."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        conv, self.pool, average = (
            (nn.Conv1d, F.max_pool1d, nn.AdaptiveAvgPool1d)
            if dimensions == 1
            else (nn.Conv2d, F.max_pool2d, nn.AdaptiveAvgPool2d)
        )
        self.first, self.second = conv(2, 4, 3, padding=1), conv(4, 4, 2, stride=2, groups=2)
        self.norm, self.average = nn.GroupNorm(2, 4), average(1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.pool(self.norm(self.first(x)), 2, stride=1))
        return self.head(self.average(self.second(x)).flatten(1))


class Attention(nn.Module):
    """Self-attention of separate projections behind a LayerNorm, and a residual MLP; three tokens of four numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Linear(4, 4), nn.Linear(4, 4)
        self.query, self.key, self.value = (nn.Linear(4, 4, bias=False) for _ in range(3))
        self.norm = nn.LayerNorm(4)
        self.inner, self.leave, self.head = nn.Linear(4, 6), nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        h = self.norm(x)
        q, k, v = (f(h).unflatten(2, (2, 2)).transpose(1, 2) for f in (self.query, self.key, self.value))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = x + self.leave(F.relu(self.inner(x)))
        return self.head(x.mean(1))


class PastAll(nn.Module):
    """A residual stream that reaches the output past the last site, changed in place as residual networks often are."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.first, self.second = nn.Linear(5, 4), nn.Linear(4, 6), nn.Linear(6, 4)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        h = h * 2.0
        h += self.second(self.act(self.first(torch.tanh(h))))
        return h


class Skip(nn.Module):
    """A block of one layer, whose output joins the residual stream that it has read: both are ends of what is below."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.block, self.leave = nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        return self.leave(torch.tanh(h + self.block(torch.tanh(h))))


class Encoder(nn.Module):
    """Torch's own transformer in eval mode, where it would call one fused kernel a layer."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True, layer_norm_eps=0.5)
        self.enter, self.leave = nn.Linear(4, 4), nn.Linear(4, 3)
        self.encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(4, 0.5), enable_nested_tensor=False)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(3, dtype=torch.float64)
        return self.leave(self.encoder(self.enter(x), mask).mean(1))


ANY: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "convolutions-1d": (lambda: Convolutions(1), (2, 7)),
    "convolutions-2d": (lambda: Convolutions(2), (2, 5, 4)),
    "residual": (Residual, (2, 6, 6)),
    "attention": (Attention, (3, 4)),
    "past-all-sites": (PastAll, (5,)),
    "skip": (Skip, (5,)),
    "encoder": (Encoder, (3, 4)),
}


def any_network(name: str, size: int = 3) -> tuple[nn.Module, Batch]:
    """A network of ANY, with weights well above PyTorch's default scale, and a batch for it."""
    torch.manual_seed(2)
    make, shape = ANY[name]
    model = make().double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(2)
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(size, *shape, generator=generator, dtype=torch.float64)
    return model, Batch(inputs, torch.randint(3, (size,), generator=generator))


def batch_for(model: nn.Module, size: int, seed: int = 5) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    first = next(model.parameters())
    shape = (size, 2, 6, 6) if first.dim() == 4 else (size, first.shape[1])
    inputs = torch.randn(shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        classes = model(inputs[:1]).shape[1]
    return Batch(inputs, torch.randint(classes, (size,), generator=generator))


def site_gradients(
    model: nn.Module, batch: Batch, sites: tuple[str, ...], loss: Loss = cross_entropy
) -> dict[str, Tensor]:
    """The true g_{i,b} = ∂L/∂s_{i,b} by reverse mode: [batch, *shape of s_i] for every site."""
    outputs: dict[str, Tensor] = {}
    modules = dict(model.named_modules())

    def record(name: str, _: nn.Module, __: tuple[Tensor, ...], s: Tensor) -> Tensor:
        outputs[name] = s
        return s.clone()  # what the model does to it in place comes after s_i

    handles = [modules[name].register_forward_hook(partial(record, name)) for name in sites]
    mean = loss(model(batch.inputs), batch.targets).mean()
    for handle in handles:
        handle.remove()
    gradients = torch.autograd.grad(mean, [outputs[name] for name in sites])
    return dict(zip(sites, gradients, strict=True))


class Wrapped(GuessMethod):
    """A method as it is, with what it is given and what it gives shown."""

    def __init__(self, method: GuessMethod) -> None:
        self.method = method
        self.needs = method.needs  # pyright: ignore[reportAttributeAccessIssue]
        self.whole_batch = method.whole_batch  # pyright: ignore[reportAttributeAccessIssue]

    def prepare(self, layer: Layer, memory: Memory) -> object:
        return self.method.prepare(layer, memory)

    def linearize(self, layer: Layer, upstream: UpstreamJacobian, prepared: object) -> LinearMap:
        linear = self.method.linearize(layer, upstream, prepared)
        return replace(linear, map=partial(self.mapped, layer, linear))

    def mapped(self, layer: Layer, linear: LinearMap, z: Tensor) -> Tensor:
        return linear.map(z)


class Dense(Wrapped):
    """Keeps the dense W̃ of the sites that it is asked for."""

    def __init__(self, method: GuessMethod) -> None:
        super().__init__(method)
        self.dense: dict[str, Tensor] = {}

    def linearize(self, layer: Layer, upstream: UpstreamJacobian, prepared: object) -> LinearMap:
        self.dense[layer.name] = upstream.dense()
        return super().linearize(layer, upstream, prepared)


def matrix_of(linear: LinearMap, samples: int) -> Tensor:
    """A [samples, d, noise_dim] of a map, from the columns of the identity."""
    identity = torch.eye(linear.noise_dim, dtype=torch.float64).expand(samples, -1, -1)
    return linear.map(identity).flatten(1, -2)


def covariances(method: GuessMethod, model: nn.Module, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
    """By site that has an upstream Jacobian: the guess's covariance, and the dense W̃."""
    kept = Dense(method)
    estimator = GuessEstimator(kept)
    estimator.bind(model, batch.inputs)
    found = {}
    for name, linear in estimator.linear_maps(model, batch.inputs, 0).items():
        if name in kept.dense:
            a = matrix_of(linear, batch.size)
            found[name] = a @ a.mT, kept.dense[name]
    return found
