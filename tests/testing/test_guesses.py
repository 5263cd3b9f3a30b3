"""The kit passes every sound guess method, and names what is broken in each of many kinds."""

from collections.abc import Callable
from itertools import islice
from typing import Any, ClassVar

import pytest
import torch
from claims import GUESSES, Claim
from looks import looked_at_once
from torch import Tensor, nn

from fgcli import GuessMethod, Isotropic, Layer, LinearMap, LinearUpstream, Memory, SampledGuess, load_registry
from fgcli.testing import CheckFailed, check_guess_method, guesses
from fgcli.testing.cases import cases


@pytest.fixture(autouse=True)
def _looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tested here is made after the look at a network, which is the same for all methods."""
    looked_at_once(monkeypatch)


def maker(claim: Claim) -> Callable[[], Any]:
    _, entry = load_registry().method(claim.method)
    return lambda: entry.load()(entry.options(**claim.options))


@pytest.mark.parametrize("claim", GUESSES, ids=lambda claim: claim.name)
def test_every_built_in_passes(claim: Claim) -> None:
    check_guess_method(maker(claim), unbiased=claim.unbiased)


class Sphere(SampledGuess):
    """Sound, and not linear: a direction of length √d, whose covariance is I."""

    needs: ClassVar[Any] = "nothing"

    def sample(self, layer: Layer, upstream: Any, prepared: None, generator: torch.Generator) -> Tensor:
        assert layer.output is not None
        z = torch.randn(layer.output.shape, generator=generator, dtype=layer.weight.dtype, device=layer.weight.device)
        return z * layer.dim**0.5 / z.flatten(1).norm(dim=1).view(-1, *[1] * len(layer.shape))


def identity(layer: Layer, upstream: None) -> Tensor:
    assert layer.output is not None
    return torch.eye(layer.dim, dtype=torch.float64).expand(len(layer.output), -1, -1)


def test_a_sampled_method_passes_with_the_covariance_it_claims() -> None:
    check_guess_method(Sphere, unbiased=True, covariance=identity)


class Wt(GuessMethod):
    """Sound, as a base of what is broken: y = W̃ᵀz of a matrix, changed by `given` before and `made` after."""

    needs: ClassVar[Any] = "matrix"

    def linearize(self, layer: Layer, upstream: LinearUpstream, prepared: Any) -> LinearMap:
        def map_(z: Tensor) -> Tensor:
            return self.made(upstream.apply_transpose(self.given(z)), upstream, prepared)

        return LinearMap(upstream.output_dim, map_)

    def given(self, z: Tensor) -> Tensor:
        return z

    def made(self, y: Tensor, upstream: LinearUpstream, prepared: Any) -> Tensor:
        return y


def wt_covariance(layer: Layer, upstream: LinearUpstream) -> Tensor:
    w = upstream.dense()
    return w.mT @ w


def test_a_linear_method_passes_with_the_covariance_it_claims() -> None:
    check_guess_method(Wt, covariance=wt_covariance)


class NoNeeds(Wt):
    needs: ClassVar[Any] = "everything"


class WholeBatchOfText(Wt):
    whole_batch: ClassVar[Any] = "yes"


class Both(Sphere, GuessMethod):  # pyright: ignore[reportIncompatibleVariableOverride]
    def linearize(self, layer: Layer, upstream: Any, prepared: None) -> LinearMap:
        return LinearMap(layer.dim, lambda z: z)


class NoLinearMap(Wt):
    def linearize(self, layer: Layer, upstream: LinearUpstream, prepared: Any) -> Any:
        return upstream.apply_transpose


class WrongShape(Wt):
    def made(self, y: Tensor, upstream: LinearUpstream, prepared: Any) -> Tensor:
        return y[:, :-1]


class WrongDtype(Wt):
    def made(self, y: Tensor, upstream: LinearUpstream, prepared: Any) -> Tensor:
        return y.float()


class WrongNoise(Wt):
    def linearize(self, layer: Layer, upstream: LinearUpstream, prepared: Any) -> LinearMap:
        return LinearMap(2.0, upstream.apply_transpose)  # pyright: ignore[reportArgumentType]


class NoColumns(Wt):
    def linearize(self, layer: Layer, upstream: LinearUpstream, prepared: Any) -> LinearMap:
        return LinearMap(upstream.output_dim, lambda z: (z @ upstream.weight) * upstream.slope)


class Raises(Wt):
    def prepare(self, layer: Layer, memory: Memory) -> None:
        raise ZeroDivisionError("no luck")


class LooksAtSamplesTooEarly(Wt):
    def prepare(self, layer: Layer, memory: Memory) -> None:
        layer.output.mean(0)  # pyright: ignore[reportOptionalMemberAccess]


class NanUnderZeroMask(Wt):
    def made(self, y: Tensor, upstream: LinearUpstream, prepared: Any) -> Tensor:
        return y / upstream.slope.norm(dim=1).view(-1, *[1] * (y.dim() - 1))


class NanForRankDeficientWeights(Wt):
    def made(self, y: Tensor, upstream: LinearUpstream, prepared: Any) -> Tensor:
        return y / torch.linalg.matrix_norm(upstream.weight, 2)


class NotLinear(Wt):
    def given(self, z: Tensor) -> Tensor:
        return z / z.norm(dim=1, keepdim=True).clamp_min(1e-9)


class SlightlyNotLinear(Wt):
    def made(self, y: Tensor, upstream: LinearUpstream, prepared: Any) -> Tensor:
        return y + 1e-4 * y.square()


class Affine(Wt):
    def made(self, y: Tensor, upstream: LinearUpstream, prepared: Any) -> Tensor:
        return y + 1


class DrawsItsOwn(Wt):
    def linearize(self, layer: Layer, upstream: LinearUpstream, prepared: Any) -> LinearMap:
        scale = 1 + torch.rand(())
        return LinearMap(upstream.output_dim, lambda z: scale.to(z) * upstream.apply_transpose(z))


class DrawsInItsMap(Wt):
    def given(self, z: Tensor) -> Tensor:
        torch.rand(())
        return z


class DrawsFromAHiddenGenerator(Wt):
    """Not from the global one; the second linearize of the same batch has another map."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def linearize(self, layer: Layer, upstream: LinearUpstream, prepared: Any) -> LinearMap:
        scale = 1 + torch.rand((), generator=self.generator)
        return LinearMap(upstream.output_dim, lambda z: scale.to(z) * upstream.apply_transpose(z))


class PreparesFromAHiddenGenerator(Wt):
    """Another instance guesses otherwise."""

    made_so_far: ClassVar[list[int]] = []

    def __init__(self) -> None:
        self.made_so_far.append(0)

    def made(self, y: Tensor, upstream: LinearUpstream, prepared: Any) -> Tensor:
        return y * len(self.made_so_far)


class OneNoiseForAll(Wt):
    def given(self, z: Tensor) -> Tensor:
        return z[:1].expand_as(z)


class MixesSamples(Wt):
    def given(self, z: Tensor) -> Tensor:
        return z - z.mean(0)


class DependsOnItsBatch(Wt):
    def made(self, y: Tensor, upstream: LinearUpstream, prepared: Any) -> Tensor:
        return y * (1 + upstream.slope.mean())


class WritesIntoTheWeights(Wt):
    def linearize(self, layer: Layer, upstream: LinearUpstream, prepared: Any) -> LinearMap:
        layer.next_weight.mul_(1.001)  # pyright: ignore[reportOptionalMemberAccess]
        return super().linearize(layer, upstream, prepared)


class WritesIntoTheOutput(Wt):
    def linearize(self, layer: Layer, upstream: LinearUpstream, prepared: Any) -> LinearMap:
        assert layer.output is not None
        layer.output.zero_()
        return super().linearize(layer, upstream, prepared)


class WritesIntoTheSlope(Wt):
    def linearize(self, layer: Layer, upstream: LinearUpstream, prepared: Any) -> LinearMap:
        upstream.slope.fill_(1)
        return super().linearize(layer, upstream, prepared)


class WritesIntoTheNoise(Wt):
    def given(self, z: Tensor) -> Tensor:
        return z.mul_(2)


class KeepsWhatItGives(Isotropic):
    """A buffer used again: the engine overwrites y, and so the buffer's next content."""

    def linearize(self, layer: Layer, upstream: Any, prepared: None) -> LinearMap:
        last: dict[Any, Tensor] = {}
        return LinearMap(layer.dim, lambda z: last.setdefault((z.shape, float(z.sum())), z.clone()))


class GivesAView(Isotropic):
    def linearize(self, layer: Layer, upstream: Any, prepared: None) -> LinearMap:
        return LinearMap(layer.dim, lambda z: z.mean(1, keepdim=True).expand_as(z))


class PreparesAtEveryMap(Wt):
    def linearize(self, layer: Layer, upstream: LinearUpstream, prepared: Any) -> LinearMap:
        self.prepare(layer, Memory())
        return super().linearize(layer, upstream, prepared)


class KeepsStateToItself(Wt):
    """A warm start that no checkpoint has."""

    def __init__(self) -> None:
        self.updates: dict[str, int] = {}

    def prepare(self, layer: Layer, memory: Memory) -> Any:
        self.updates[layer.name] = self.updates.get(layer.name, 0) + 1
        return self.updates[layer.name]

    def made(self, y: Tensor, upstream: LinearUpstream, prepared: Any) -> Tensor:
        return y / prepared


class KeepsNoTensor(Wt):
    def prepare(self, layer: Layer, memory: Memory) -> None:
        memory["count"] = 3  # pyright: ignore[reportArgumentType]


class StatisticsOfNumbers(Wt):
    def linearize(self, layer: Layer, upstream: LinearUpstream, prepared: Any) -> LinearMap:
        return LinearMap(upstream.output_dim, upstream.apply_transpose, {"count": 3})  # pyright: ignore[reportArgumentType]


class StatisticsOfTheSum(Wt):
    def linearize(self, layer: Layer, upstream: LinearUpstream, prepared: Any) -> LinearMap:
        return LinearMap(upstream.output_dim, upstream.apply_transpose, {"slope": upstream.slope.sum(0)})


class StatisticsOfTheMean(Wt):
    """Sound."""

    def linearize(self, layer: Layer, upstream: LinearUpstream, prepared: Any) -> LinearMap:
        return LinearMap(upstream.output_dim, upstream.apply_transpose, {"slope": upstream.slope.mean(0)})


class RecordsAGraph(Wt):
    def linearize(self, layer: Layer, upstream: LinearUpstream, prepared: Any) -> LinearMap:
        scale = torch.ones((), dtype=layer.weight.dtype, requires_grad=True)

        def map_(z: Tensor) -> Tensor:
            with torch.enable_grad():
                return scale * upstream.apply_transpose(z)

        return LinearMap(upstream.output_dim, map_)


class IgnoresItsGenerator(Sphere):
    def sample(self, layer: Layer, upstream: Any, prepared: None, generator: torch.Generator) -> Tensor:
        return super().sample(layer, upstream, prepared, torch.Generator().manual_seed(0))


class SamplesOneForAll(Sphere):
    def sample(self, layer: Layer, upstream: Any, prepared: None, generator: torch.Generator) -> Tensor:
        y = super().sample(layer, upstream, prepared, generator)
        return y[:1].repeat(len(y), *[1] * len(layer.shape))


class HasAMean(Sphere):
    def sample(self, layer: Layer, upstream: Any, prepared: None, generator: torch.Generator) -> Tensor:
        return super().sample(layer, upstream, prepared, generator) + 0.1


BROKEN = {
    NoNeeds: r"needs: expected one of nothing, operator, matrix, found 'everything'",
    WholeBatchOfText: r"whole_batch: expected True or False, found 'yes'",
    Both: r"the class: expected one derived from either GuessMethod or SampledGuess, found both",
    nn.Identity: r"the class: expected one derived from .*, found neither in Identity",
    NoLinearMap: r"site '0': linearize returned a method; it must return a LinearMap",
    WrongShape: r"site '0': map returned a tensor of shape \[2, 7\]; it must be \[2, 8\]",
    WrongDtype: r"float64.*: site '0': map returned a tensor of dtype torch.float32; it must be torch.float64",
    WrongNoise: r"site '0': linearize gave noise_dim 2.0; it must be a number of 0 or more",
    NoColumns: r"site '0': map raised RuntimeError: .*",
    Raises: r"in a network \(float32, cpu\): site '0': prepare raised ZeroDivisionError: no luck",
    LooksAtSamplesTooEarly: r"site '0': prepare raised AttributeError: 'NoneType' object has no attribute 'mean'",
    NanUnderZeroMask: r"the guess at site '0' of a network \(float32, cpu\): expected finite numbers, found nan in s",
    NanForRankDeficientWeights: r"of a network whose weights are all 0 \(float32, cpu\): expected finite numbers, f",
    NotLinear: r"site '0': map is not linear: .* a guess of another form derives from SampledGuess",
    SlightlyNotLinear: r"map at site '0': expected a map that is linear in z, to .*, found a difference of",
    Affine: r"map is not linear",
    DrawsItsOwn: r"linearize at site '0': expected no draw but from what it is given, found draws from torch's global",
    DrawsInItsMap: r"linearize at site '0': expected no draw but from what it is given, found draws from torch's glo",
    DrawsFromAHiddenGenerator: r"linearize at site '0': expected the same map for the same batch, as memory=replay",
    PreparesFromAHiddenGenerator: r"randomness at site '0': expected a fresh instance to guess the same, found another",
    OneNoiseForAll: r"map at site '0': expected a sample's guess from its own noise alone, to .*, found a difference",
    MixesSamples: r"map at site '0': expected a sample's guess from its own noise alone, to .*, found a difference",
    DependsOnItsBatch: r"linearize at site '0': expected a sample's guess whatever others are in its batch \(else",
    WritesIntoTheWeights: r"side effects: expected 2.weight left as it is, found another value written into it",
    WritesIntoTheOutput: r"linearize at site '0': expected layer.output left as it is, found another value written",
    WritesIntoTheSlope: r"linearize at site '0': expected upstream.slope left as it is, found another value",
    WritesIntoTheNoise: r"map at site '0': expected z left as it is, found another value written into it",
    KeepsWhatItGives: r"map at site '0': expected y to be the engine's alone, found y used again",
    GivesAView: r"the guess: expected a tensor of its own, found an expanded view",
    PreparesAtEveryMap: r"prepare at site '0': expected 1 call in update 0, found [23] calls",
    KeepsStateToItself: r"a resumed run at site '0': expected the guess of the uninterrupted one",
    KeepsNoTensor: r"site '0': prepare raised TypeError: memory takes tensors by name, not 'count', a int",
    StatisticsOfNumbers: r"site '0': linearize gave 'count', a int, in statistics; tensors by name",
    StatisticsOfTheSum: r"statistics 'slope' of linearize at site '0': expected means over samples: the weighted mean",
    RecordsAGraph: r"site '0': map returned a tensor that requires grad; it must record no graph: detach",
    IgnoresItsGenerator: r"randomness: expected another guess in another step, found the same at sites 0, 2, 4, 6",
    SamplesOneForAll: r"the guess at site '0' along a direction: expected a mean of 0, found .* standard errors off",
    HasAMean: r"the guess at site '0' along a direction: expected a mean of 0, found .* standard errors off",
}


@pytest.mark.parametrize(("method", "said"), BROKEN.items(), ids=lambda one: getattr(one, "__name__", ""))
def test_a_broken_method_is_found_out(method: type, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if method is not NanForRankDeficientWeights:  # the others are found out in any network
        monkeypatch.setattr(guesses, "cases", lambda **which: islice(cases(**which), 1))
    with pytest.raises(CheckFailed, match=said):
        check_guess_method(method)


def test_statistics_that_are_means_pass() -> None:
    check_guess_method(StatisticsOfTheMean)


def test_a_method_whose_samples_depend_on_each_other_passes_if_it_says_so() -> None:
    class Declared(DependsOnItsBatch):
        whole_batch: ClassVar[bool] = True

    check_guess_method(Declared)


class LongerIsotropic(Isotropic):
    def linearize(self, layer: Layer, upstream: Any, prepared: None) -> LinearMap:
        return LinearMap(layer.dim, lambda z: 1.05 * z)


class LongerSphere(Sphere):
    def sample(self, layer: Layer, upstream: Any, prepared: None, generator: torch.Generator) -> Tensor:
        return 1.05 * super().sample(layer, upstream, prepared, generator)


@pytest.mark.parametrize("longer", [LongerIsotropic, LongerSphere])
def test_a_claim_that_is_5_percent_off_is_found_out(longer: type) -> None:
    with pytest.raises(CheckFailed, match=r"E\[δ y\] at site '\d'.*: expected "):
        check_guess_method(longer, unbiased=True)
    with pytest.raises(CheckFailed, match=r"the (covariance|squared guess) at site '\d'.*: expected "):
        check_guess_method(longer, covariance=identity)


def test_a_covariance_of_another_shape_is_found_out() -> None:
    with pytest.raises(CheckFailed, match=r"the claimed covariance at site '0': expected \[4, 8, 8\], found \[8, 8\]"):
        check_guess_method(Isotropic, covariance=lambda layer, _: torch.eye(layer.dim, dtype=torch.float64))


def test_a_biased_method_that_claims_none_is_found_out() -> None:
    with pytest.raises(
        CheckFailed, match=r"E\[δ y\] at site '0': expected the gradient g, to 1e-06, found a difference"
    ):
        check_guess_method(Wt, unbiased=True)
