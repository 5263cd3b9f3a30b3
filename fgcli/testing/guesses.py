"""`check_guess_method`: a guess method held to contract 2, in the engine that it is written for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, get_args

import torch
from torch import Tensor

from fgcli.gradient.guess import GuessMethod, LinearMap, Memory, Needs, SampledGuess, sampled
from fgcli.gradient.randomness import Streams
from fgcli.testing.cases import Case, Residual, batch_for, cases, chain
from fgcli.testing.expect import expect, expect_close, unchanged, without_global_randomness
from fgcli.testing.moments import Covariance, check_moments
from fgcli.testing.watch import SEED, Seen, Watched, told

STEPS = 3
ITERATED = 1e-6
"""To which two maps of one sample agree, where a method iterates on the whole batch until all samples converge."""


def check_guess_method(
    make: Callable[[], Any], *, unbiased: bool = False, covariance: Covariance | None = None
) -> None:
    """Hold a guess method to its contract.

    What is checked: shapes, dtype and device; that guesses are finite, also where units are off and weights rank
    deficient; the same guess for the same noise, and no noise of its own; samples that do not depend on each other's
    noise, nor, unless `whole_batch` says so, on each other; nothing written that is not the method's own; a map that is
    linear; the same map when it is linearized again; statistics that are means over the samples; `prepare` called once
    an update; a resumed run that guesses as an uninterrupted one; and the moments of δ y against the covariance, which
    for a linear method is A Aᵀ.

    Args:
        make: gives a fresh instance: `lambda: Mine(MyOptions(k=3))`.
        unbiased: whether the method claims E[δ y] = g.
        covariance: what the method claims as E[y yᵀ], for a chain of linear layers: (layer, upstream) -> [batch, d, d].
            `layer.output` is the batch's; `upstream` is None for a method that needs nothing.

    Raises:
        CheckFailed: says what was expected and what was found.
    """
    __tracebackhide__ = True
    needs = _check_declaration(make())
    for case in cases(any_network=needs != "matrix"):
        _check_finite(make, case)
    case = Case("a network", model := chain(), batch_for(model))
    with unchanged(case.model, "side effects"):
        Watched(make(), case).guess()
    linear = isinstance(make(), GuessMethod)
    for one in [case, *_any_network(needs)] if linear else ():
        _check_linearize(make, one)
    _check_own_randomness(make, case)
    _check_ownership(make, case)
    if linear:
        _check_linear(make, case)
        for one in [case, *_any_network(needs)]:
            _check_parts(make, one)
    _check_prepare(make, case)
    _check_resumed(make, case)
    check_moments(make, unbiased=unbiased, covariance=covariance)


def _any_network(needs: Needs) -> list[Case]:
    if needs != "operator":
        return []
    model = Residual()
    return [Case("a network with a residual connection", model, batch_for(model))]


def _check_declaration(method: Any) -> Needs:
    linear, sampled = isinstance(method, GuessMethod), isinstance(method, SampledGuess)
    found = "both" if linear and sampled else f"neither in {type(method).__name__}"
    expect(linear != sampled, "the class", "one derived from either GuessMethod or SampledGuess", found)
    needs, allowed = getattr(method, "needs", None), get_args(Needs)
    expect(needs in allowed, "needs", f"one of {', '.join(allowed)}", repr(needs))
    whole = getattr(method, "whole_batch", False)
    expect(isinstance(whole, bool), "whole_batch", "True or False", repr(whole))
    return needs  # pyright: ignore[reportReturnType]


def _check_finite(make: Callable[[], Any], case: Case) -> None:
    """Shapes, dtypes and devices too: the engine holds a method to them."""
    watched = Watched(make(), case)
    for name, y in watched.guess().items():
        bad = (~torch.isfinite(y)).nonzero()
        found = f"{float(y[tuple(bad[0])])} in sample {int(bad[0][0])}" if len(bad) else ""
        expect(not len(bad), f"the guess at site '{name}' of {case}", "finite numbers", found)


def _check_own_randomness(make: Callable[[], Any], case: Case) -> None:
    what = "randomness"
    with without_global_randomness(what):
        first = Watched(make(), case).guess()
    watched = Watched(make(), case)
    for again, meaning in ((watched.guess(), "a fresh instance"), (watched.guess(), "a second pass of the same step")):
        for name, y in first.items():
            expect(torch.equal(again[name], y), f"{what} at site '{name}'", f"{meaning} to guess the same", "another")
    other = watched.guess(step=1)
    same = [name for name, y in first.items() if torch.equal(other[name], y)]
    expect(not same, what, "another guess in another step", f"the same at sites {', '.join(same)}")


def _check_linearize(make: Callable[[], Any], case: Case) -> None:
    """linearize and map draw nothing, write into nothing that they are given, and give the same when asked again."""
    with _sites(make, case) as (method, sites):
        for name, seen in sites.items():
            at = f"linearize at site '{name}'"
            with without_global_randomness(at):
                linear = seen.linearized(method)
                y = linear.map(_noise(linear.noise_dim, seen))
            for what, value in seen.given.items():
                same = torch.equal(value.nan_to_num(), seen.before[what].nan_to_num())
                expect(same, at, f"{what} left as it is", "another value written into it")
            for key, value in linear.statistics.items():
                expect(not value.requires_grad, f"statistics {key!r} of {at}", "no recorded graph", "requires_grad")
            again = seen.linearized(method)
            same = again.noise_dim == linear.noise_dim and torch.equal(again.map(_noise(again.noise_dim, seen)), y)
            expect(same, at, "the same map for the same batch, as memory=replay asks twice", "another")
            same = again.statistics.keys() == linear.statistics.keys()
            same = same and all(torch.equal(again.statistics[key], value) for key, value in linear.statistics.items())
            expect(same, f"statistics of {at}", "the same for the same batch", "others")


def _check_ownership(make: Callable[[], Any], case: Case) -> None:
    """z is the engine's to keep, and y the engine's to write into."""
    with _sites(make, case) as (method, sites):
        for name, seen in sites.items():
            if isinstance(method, SampledGuess):
                generator = Streams(SEED).generator("check")
                _expect_own(sampled(method, seen.layer, seen.upstream, seen.prepared, generator))
                continue
            linear = seen.linearized(method)
            z = _noise(linear.noise_dim, seen)
            before = z.clone()
            y = linear.map(z)
            _expect_own(y)
            expect(torch.equal(z, before), f"map at site '{name}'", "z left as it is", "another value written into it")
            kept = y.clone()
            y.fill_(torch.nan)  # what the engine does with y is no business of the method's
            found = linear.map(before)
            expect(torch.equal(found, kept), f"map at site '{name}'", "y to be the engine's alone", "y used again")


def _expect_own(y: Tensor) -> None:
    expect(0 not in y.stride() or y.numel() <= 1, "the guess", "a tensor of its own", "an expanded view")


def _check_linear(make: Callable[[], Any], case: Case) -> None:
    with _sites(make, case) as (method, sites):
        for name, seen in sites.items():
            at, linear = f"map at site '{name}'", seen.linearized(method)
            z, other = _noise(linear.noise_dim, seen), _noise(linear.noise_dim, seen, seed=1)
            y = linear.map(z.clone())
            expect_close(linear.map(torch.zeros_like(z)), torch.zeros_like(y), at, "0 for z = 0")
            combined = linear.map(2 * z - 3 * other)
            expect_close(combined, 2 * y - 3 * linear.map(other.clone()), at, "a map that is linear in z")
            columns = linear.map(torch.stack([z, other], dim=-1))
            expect_close(columns[..., 0], y, at, "columns mapped as single vectors are")
            mixed = torch.cat([other[:-1], z[-1:]])  # the last sample's own noise, and other noise for the others
            expect_close(linear.map(mixed)[-1], y[-1], at, "a sample's guess from its own noise alone")
            mixed = torch.cat([z[:-1], other[-1:]])
            expect_close(linear.map(mixed)[:-1], y[:-1], at, "a sample's guess from its own noise alone")


def _check_parts(make: Callable[[], Any], case: Case) -> None:
    """The parts of a batch have the guesses of the whole, and statistics whose weighted mean is that of the whole."""
    for steps in (0, STEPS):  # with what earlier batches have left, too
        with _sites(make, case, steps) as (method, sites):
            if method.whole_batch:
                return
            for name, seen in sites.items():
                at, whole = f"linearize at site '{name}'", seen.linearized(method)
                z = _noise(whole.noise_dim, seen)
                parts = [slice(0, 2), slice(2, seen.samples)]
                maps = [seen.rows(rows).linearized(method) for rows in parts]
                dims = [linear.noise_dim for linear in maps]
                alike = dims == [whole.noise_dim] * 2
                expect(alike, f"noise_dim at site '{name}'", f"{whole.noise_dim} for every part of a batch", dims)
                found = torch.cat([linear.map(z[rows].clone()) for linear, rows in zip(maps, parts, strict=True)])
                meaning = "a sample's guess whatever others are in its batch (else whole_batch = True)"
                expect_close(found, whole.map(z), at, meaning, ITERATED)
                _check_means(at, whole, maps, [len(z[rows]) / len(z) for rows in parts])


def _check_means(at: str, whole: LinearMap, parts: list[LinearMap], shares: list[float]) -> None:
    for key, value in whole.statistics.items():
        what = f"statistics {key!r} of {at}"
        missing = [number for number, linear in enumerate(parts) if key not in linear.statistics]
        expect(not missing, what, "those of the whole batch in every part of it", "none in a part")
        mean = sum(share * linear.statistics[key] for share, linear in zip(shares, parts, strict=True))
        assert isinstance(mean, Tensor)
        expect_close(mean, value, what, "means over samples: the weighted mean of the parts'", ITERATED)


def _check_prepare(make: Callable[[], Any], case: Case) -> None:
    method, counts = make(), dict[tuple[str, int], int]()
    prepare = method.prepare

    def counting(layer: Any, memory: Memory) -> Any:
        counts[layer.name, layer.step] = counts.get((layer.name, layer.step), 0) + 1
        return prepare(layer, memory)

    method.prepare = counting
    watched = Watched(method, case)
    counts.clear()
    for step in range(STEPS):
        for _ in range(2):  # two batches at the same parameters
            watched.estimate(step)
    for (name, step), count in counts.items():
        expect(count == 1, f"prepare at site '{name}'", f"1 call in update {step}", f"{count} calls")


def _check_resumed(make: Callable[[], Any], case: Case) -> None:
    whole, resumed = Watched(make(), case), Watched(make(), case)
    for step in range(STEPS):
        whole.guess(step)
    resumed.engine.load_state({name: value.clone() for name, value in whole.engine.state().items()})
    expected, found = whole.guess(STEPS), resumed.guess(STEPS)
    for name, y in expected.items():
        what = f"a resumed run at site '{name}'"
        same = torch.equal(found[name], y)
        expect(same, what, "the guess of the uninterrupted one (keep warm starts in memory)", "another")


@contextmanager
def _sites(make: Callable[[], Any], case: Case, steps: int = 0) -> Iterator[tuple[Any, dict[str, Seen]]]:
    """The method, and what the engine gives it at each of its sites after some updates."""
    __tracebackhide__ = True
    method = make()
    watched = Watched(method, case)
    for step in range(steps):
        watched.estimate(step)
    sites = watched.sites(steps)
    with told(case), torch.no_grad():
        yield method, sites


def _noise(noise_dim: int, seen: Seen, seed: int = 0) -> Tensor:
    generator = Streams(SEED).generator("check", seed)
    return torch.randn(seen.samples, noise_dim, generator=generator, dtype=torch.float64)
