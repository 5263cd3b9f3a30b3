"""`check_guess_method`: a guess method held to contract 2, in the engine that it is written for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, get_args

import torch
from torch import Tensor

from fgcli.gradient.guess import LinearGuess, Needs, SampledGuess
from fgcli.gradient.randomness import Streams
from fgcli.testing.cases import Case, batch_for, cases, chain
from fgcli.testing.expect import expect, expect_close, unchanged, without_global_randomness
from fgcli.testing.moments import Covariance, check_moments
from fgcli.testing.watch import SEED, Watched, told

STEPS = 3


def check_guess_method(
    make: Callable[[], Any], *, unbiased: bool = False, covariance: Covariance | None = None
) -> None:
    """CheckFailed unless `make()` is a sound guess method.

    make: gives a fresh instance, `lambda: Mine(MyOptions(k=3))`. What is checked: shapes, dtype and device; that it is
    finite, also where units are off and weights rank deficient; the same guess for the same noise, and no noise of its
    own; samples that do not depend on each other's noise; nothing written that is not its own; a map that is linear;
    `prepare` called once an update and no more; a resumed run that guesses as an uninterrupted one; and the moments
    of δ y against the covariance, which for a linear method is A Aᵀ.
    unbiased: the method claims E[δ y] = g. covariance: what it claims as E[y yᵀ], (site) -> [batch, d, d].
    """
    __tracebackhide__ = True
    needs = _check_declaration(make())
    for case in cases(any_network=needs != "matrix"):
        _check_finite(make, case)
    case = Case("a network", model := chain(), batch_for(model))
    _check_side_effects(make, case)
    _check_own_randomness(make, case)
    _check_ownership(make, case)
    if isinstance(make(), LinearGuess):
        _check_linear(make, case)
    _check_prepare(make, case)
    _check_resumed(make, case)
    check_moments(make, unbiased=unbiased, covariance=covariance)


def _check_declaration(method: Any) -> Needs:
    needs, allowed = getattr(method, "needs", None), get_args(Needs)
    expect(needs in allowed, "needs", f"one of {', '.join(allowed)}", repr(needs))
    linear, sampled = isinstance(method, LinearGuess), isinstance(method, SampledGuess)
    found = "both" if linear and sampled else "neither"
    expect(linear != sampled, "methods", "prepare and either noise_dim and map, or sample", found)
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


def _check_side_effects(make: Callable[[], Any], case: Case) -> None:
    with unchanged(case.model, "side effects"):
        Watched(make(), case).guess()


def _check_ownership(make: Callable[[], Any], case: Case) -> None:
    """z is the engine's to keep, and y the engine's to write into."""

    def look(site: object, y: Tensor) -> None:
        expect(0 not in y.stride() or y.numel() <= 1, "the guess", "a tensor of its own", "an expanded view")

    Watched(make(), case, look).guess()
    if not isinstance(make(), LinearGuess):
        return
    with _maps(make, case) as maps:
        for name, linear in maps.items():
            z = _noise(linear.noise_dim, len(case.batch.inputs))
            before = z.clone()
            y = linear.map(z)
            expect(torch.equal(z, before), f"map at site '{name}'", "z left as it is", "another value written into it")
            kept = y.clone()
            y.fill_(torch.nan)  # what the engine does with y is no business of the method's
            found = linear.map(before)
            expect(torch.equal(found, kept), f"map at site '{name}'", "y to be the engine's alone", "y used again")


def _check_linear(make: Callable[[], Any], case: Case) -> None:
    batch = len(case.batch.inputs)
    with _maps(make, case) as maps:
        for name, linear in maps.items():
            at = f"map at site '{name}'"
            z, other = _noise(linear.noise_dim, batch), _noise(linear.noise_dim, batch, seed=1)
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


def _check_prepare(make: Callable[[], Any], case: Case) -> None:
    method, counts = make(), dict[tuple[str, int], int]()
    prepare = method.prepare

    def counting(site: Any) -> Any:
        counts[site.name, site.step] = counts.get((site.name, site.step), 0) + 1
        return prepare(site)

    method.prepare = counting
    watched = Watched(method, case)
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
        expect(same, what, "the guess of the uninterrupted one (keep warm starts in site.memory)", "another")


@contextmanager
def _maps(make: Callable[[], Any], case: Case) -> Iterator[dict[str, Any]]:
    """The method's linear maps at the case; the output layer's is the engine's, and sound."""
    __tracebackhide__ = True
    watched = Watched(make(), case)
    with told(case), torch.no_grad():
        yield watched.engine.linear_maps(case.model, case.batch.inputs, 0)


def _noise(noise_dim: int, batch: int, seed: int = 0) -> Tensor:
    generator = Streams(SEED).generator("check", seed)
    return torch.randn(batch, noise_dim, generator=generator, dtype=torch.float64)
