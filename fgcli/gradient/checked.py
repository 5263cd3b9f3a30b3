"""Calls of a guess method, each held to its contract. All of it is free: no value of a tensor is looked at."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fgcli.gradient.errors import GuessFault
from fgcli.gradient.guess import LinearGuess, SampledGuess
from fgcli.gradient.sites import Site

Guess = LinearGuess | SampledGuess


def prepare(guess: Guess, site: Site) -> Any:
    """What `guess.prepare` gives. GuessFault where it raises, or keeps in `site.memory` what no checkpoint holds."""
    prepared = _call(site, "prepare", guess.prepare, site)
    for key, value in site.memory.items():
        if not (isinstance(key, str) and isinstance(value, Tensor)):
            kept = f"{key!r}, a {type(value).__name__}"
            raise GuessFault(site.name, f"prepare left {kept}, in site.memory; it must hold tensors, by name")
    return prepared


def noise_dim(guess: LinearGuess, site: Site, prepared: Any) -> int:
    """The length of z. GuessFault where the method raises or gives no such number."""
    n = _call(site, "noise_dim", guess.noise_dim, site, prepared)
    if not isinstance(n, int) or n < 0:
        raise GuessFault(site.name, f"noise_dim returned {n!r}; it must return a number of 0 or more")
    return n


def mapped(guess: LinearGuess, site: Site, prepared: Any, z: Tensor) -> Tensor:
    """y = A z. GuessFault where `guess.map` raises or returns another shape, dtype or device than y's.

    A method may give the y of a site of several axes as vectors [batch, site.dim(, columns)].
    """
    y = _call(site, "map", guess.map, site, prepared, z)
    if len(site.shape) > 1 and isinstance(y, Tensor) and y.shape == (len(z), site.dim, *z.shape[2:]):
        y = y.unflatten(1, site.shape)
    return _checked(site, "map", y, (len(z), *site.shape, *z.shape[2:]), z)


def sampled(guess: SampledGuess, site: Site, prepared: Any, s: Tensor, generator: torch.Generator) -> Tensor:
    """y of each sample, in the dtype and on the device of s. GuessFault as for `mapped`."""
    y = _call(site, "sample", guess.sample, site, prepared, len(s), generator)
    return _checked(site, "sample", y, tuple(s.shape), s)


def _call(site: Site, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except (Exception, SystemExit) as cause:
        raise GuessFault(site.name, f"{name} raised {type(cause).__name__}: {cause}") from cause


def _checked(site: Site, name: str, y: Any, shape: tuple[int, ...], like: Tensor) -> Tensor:
    if not isinstance(y, Tensor):
        raise GuessFault(site.name, f"{name} returned {type(y).__name__}; it must return a tensor {list(shape)}")
    for what, found, expected in (
        ("shape", tuple(y.shape), shape),
        ("dtype", y.dtype, like.dtype),
        ("device", y.device, like.device),
        ("layout", y.layout, like.layout),
    ):
        if found != expected:
            given, wanted = (list(v) if isinstance(v, tuple) else v for v in (found, expected))
            raise GuessFault(site.name, f"{name} returned a tensor of {what} {given}; it must be {wanted}")
    if y.requires_grad:
        raise GuessFault(site.name, f"{name} returned a tensor that requires grad; it must record no graph: detach")
    return y
