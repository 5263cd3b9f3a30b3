"""The kit passes every sound guess method, and names what is broken in each of many kinds."""

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from claims import GUESSES, Claim
from torch import Tensor, nn

from fgcli.extend.registry import load_registry
from fgcli.gradient.guess import Isotropic
from fgcli.gradient.sites import Site
from fgcli.guesses.transpose import Transpose
from fgcli.testing import CheckFailed, check_guess_method


def maker(claim: Claim) -> Callable[[], Any]:
    _, entry = load_registry().method(claim.method)
    return lambda: entry.load()(entry.options(**claim.options))


@pytest.mark.parametrize("claim", GUESSES, ids=lambda claim: claim.name)
def test_every_built_in_passes(claim: Claim) -> None:
    check_guess_method(maker(claim), unbiased=claim.unbiased)


class Sphere:
    """Sound, and not linear: a direction of length √d, whose covariance is I."""

    needs: ClassVar[str] = "nothing"

    def prepare(self, site: Site) -> None:
        return None

    def sample(self, site: Site, prepared: None, batch: int, generator: torch.Generator) -> Tensor:
        weight = site.module.weight
        z = torch.randn(batch, *site.shape, generator=generator, dtype=weight.dtype, device=weight.device)
        return z * torch.Size(site.shape).numel() ** 0.5 / z.flatten(1).norm(dim=1).view(-1, *[1] * len(site.shape))


def identity(site: Site) -> Tensor:
    assert site.output is not None
    batch, d = site.output.shape
    return torch.eye(d, dtype=torch.float64).expand(batch, d, d)


def test_a_sampled_method_passes_with_the_covariance_it_claims() -> None:
    check_guess_method(Sphere, unbiased=True, covariance=identity)


class Wt(Transpose):
    """Sound, as a base of what is broken."""

    needs: ClassVar[Any] = "matrix"

    def __init__(self) -> None:
        pass


class NoNeeds(Wt):
    needs: ClassVar[Any] = "everything"


class Both(Sphere):
    def noise_dim(self, site: Site, prepared: None) -> int:
        return site.shape[0]

    def map(self, site: Site, prepared: None, z: Tensor) -> Tensor:
        return z


class WrongShape(Wt):
    def map(self, site: Site, prepared: None, z: Tensor) -> Tensor:
        return super().map(site, prepared, z)[:, :-1]


class WrongDtype(Wt):
    def map(self, site: Site, prepared: None, z: Tensor) -> Tensor:
        return super().map(site, prepared, z).float()


class WrongNoise(Wt):
    def noise_dim(self, site: Site, prepared: None) -> int:
        return 2.0  # pyright: ignore[reportReturnType]


class NoColumns(Wt):
    def map(self, site: Site, prepared: None, z: Tensor) -> Tensor:
        return (z @ site.next_weight) * site.linear_upstream.slope


class Raises(Wt):
    def prepare(self, site: Site) -> None:
        raise ZeroDivisionError("no luck")


class LooksAtSamplesTooEarly(Wt):
    def prepare(self, site: Site) -> None:
        site.upstream.dense()


class NanUnderZeroMask(Wt):
    def map(self, site: Site, prepared: None, z: Tensor) -> Tensor:
        y = super().map(site, prepared, z)
        slope = site.linear_upstream.slope
        return y / slope.norm(dim=1).view(-1, *[1] * (y.dim() - 1)) if z.dim() == 2 else y


class NanForRankDeficientWeights(Wt):
    def map(self, site: Site, prepared: None, z: Tensor) -> Tensor:
        return super().map(site, prepared, z) / torch.linalg.matrix_norm(site.next_weight, 2)


class NotLinear(Wt):
    def map(self, site: Site, prepared: None, z: Tensor) -> Tensor:
        return super().map(site, prepared, z / z.norm(dim=1, keepdim=True).clamp_min(1e-9))


class Affine(Wt):
    def map(self, site: Site, prepared: None, z: Tensor) -> Tensor:
        return super().map(site, prepared, z) + 1


class DrawsItsOwn(Wt):
    def map(self, site: Site, prepared: None, z: Tensor) -> Tensor:
        return super().map(site, prepared, torch.randn_like(z))


class DrawsFromAHiddenGenerator(Wt):
    """Not from the global one; a second pass of the same step then guesses anew."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def map(self, site: Site, prepared: None, z: Tensor) -> Tensor:
        return super().map(site, prepared, torch.randn(z.shape, generator=self.generator, dtype=z.dtype))


class OneNoiseForAll(Wt):
    def map(self, site: Site, prepared: None, z: Tensor) -> Tensor:
        return super().map(site, prepared, z[:1].expand_as(z))


class MixesSamples(Wt):
    def map(self, site: Site, prepared: None, z: Tensor) -> Tensor:
        return super().map(site, prepared, z - z.mean(0))


class WritesIntoTheWeights(Wt):
    def map(self, site: Site, prepared: None, z: Tensor) -> Tensor:
        site.next_weight.mul_(1.001)
        return super().map(site, prepared, z)


class WritesIntoTheNoise(Wt):
    def map(self, site: Site, prepared: None, z: Tensor) -> Tensor:
        return super().map(site, prepared, z.mul_(2))


class KeepsWhatItGives(Isotropic):
    """A buffer used again: the engine overwrites y, and so the buffer's next content."""

    def __init__(self) -> None:
        self.last: dict[Any, Tensor] = {}

    def map(self, site: Site, prepared: None, z: Tensor) -> Tensor:
        return self.last.setdefault((site.name, site.step, z.shape), super().map(site, prepared, z))


class PreparesAtEveryMap(Wt):
    def map(self, site: Site, prepared: None, z: Tensor) -> Tensor:
        self.prepare(site)
        return super().map(site, prepared, z)


class KeepsStateToItself(Wt):
    """A warm start that no checkpoint has."""

    def __init__(self) -> None:
        self.updates: dict[str, int] = {}

    def prepare(self, site: Site) -> Any:
        self.updates[site.name] = self.updates.get(site.name, 0) + 1
        return self.updates[site.name]

    def map(self, site: Site, prepared: Any, z: Tensor) -> Tensor:
        return super().map(site, None, z) / prepared


class KeepsNoTensor(Wt):
    def prepare(self, site: Site) -> None:
        site.memory["count"] = 3  # pyright: ignore[reportArgumentType]


class RecordsAGraph(Wt):
    def map(self, site: Site, prepared: None, z: Tensor) -> Tensor:
        with torch.enable_grad():
            assert site.next_layer is not None
            columns = site.next_layer.weight.T @ (z.unsqueeze(-1) if z.dim() == 2 else z)
            y = columns * site.linear_upstream.slope.unsqueeze(-1)
        return y.squeeze(-1) if z.dim() == 2 else y


class IgnoresItsGenerator(Sphere):
    def sample(self, site: Site, prepared: None, batch: int, generator: torch.Generator) -> Tensor:
        return super().sample(site, prepared, batch, torch.Generator().manual_seed(0))


class SamplesOneForAll(Sphere):
    def sample(self, site: Site, prepared: None, batch: int, generator: torch.Generator) -> Tensor:
        return super().sample(site, prepared, 1, generator).repeat(batch, *[1] * len(site.shape))


class HasAMean(Sphere):
    def sample(self, site: Site, prepared: None, batch: int, generator: torch.Generator) -> Tensor:
        return super().sample(site, prepared, batch, generator) + 0.1


BROKEN = {
    NoNeeds: r"needs: expected one of nothing, operator, matrix, found 'everything'",
    Both: r"methods: expected prepare and either noise_dim and map, or sample, found both",
    nn.Identity: "needs: expected one of .*, found None",
    WrongShape: r"site '0': map returned a tensor of shape \[6, 7\]; it must be \[6, 8\]",
    WrongDtype: r"float64.*: site '0': map returned a tensor of dtype torch.float32; it must be torch.float64",
    WrongNoise: r"site '0': noise_dim returned 2.0; it must return a number of 0 or more",
    NoColumns: r"site '0': map raised RuntimeError: .*",
    Raises: r"in a network \(float32, cpu\): site '0': prepare raised ZeroDivisionError: no luck",
    LooksAtSamplesTooEarly: r"site '0': prepare raised RuntimeError: site '0' has no upstream Jacobian here",
    NanUnderZeroMask: r"the guess at site '0' of a network \(float32, cpu\): expected finite numbers, found nan in s",
    NanForRankDeficientWeights: r"of a network whose weights are all 0 \(float32, cpu\): expected finite numbers, f",
    NotLinear: r"map at site '0': expected a map that is linear in z, to .*, found a difference of",
    Affine: r"map at site '0': expected 0 for z = 0, to 1e-09, found a difference of 1",
    DrawsItsOwn: r"randomness: expected no draw but from what it is given, found draws from torch's global generator",
    DrawsFromAHiddenGenerator: r"randomness at site '0': expected a second pass of the same step to guess the same",
    OneNoiseForAll: r"map at site '0': expected a sample's guess from its own noise alone, to .*, found a difference",
    MixesSamples: r"map at site '0': expected a sample's guess from its own noise alone, to .*, found a difference",
    WritesIntoTheWeights: r"side effects: expected 2.weight left as it is, found another value written into it",
    WritesIntoTheNoise: r"map at site '0': expected z left as it is, found another value written into it",
    KeepsWhatItGives: r"map at site '0': expected y to be the engine's alone, found y used again|to guess the same",
    PreparesAtEveryMap: r"prepare at site '0': expected 1 call in update 0, found 3 calls",
    KeepsStateToItself: r"a resumed run at site '0': expected the guess of the uninterrupted one",
    KeepsNoTensor: r"site '0': prepare left 'count', a int, in site.memory; it must hold tensors, by name",
    RecordsAGraph: r"site '0': map returned a tensor that requires grad; it must record no graph: detach",
    IgnoresItsGenerator: r"randomness: expected another guess in another step, found the same at sites 0, 2, 4, 6",
    SamplesOneForAll: r"the guess at site '0' along a direction: expected a mean of 0, found .* inf standard errors",
    HasAMean: r"the guess at site '0' along a direction: expected a mean of 0, found .* standard errors off",
}


@pytest.mark.parametrize(("method", "said"), BROKEN.items(), ids=lambda one: getattr(one, "__name__", ""))
def test_a_broken_method_is_found_out(method: type, said: str) -> None:
    with pytest.raises(CheckFailed, match=said):
        check_guess_method(method)


@pytest.mark.parametrize("base", [Isotropic, Sphere])
def test_a_claim_that_is_5_percent_off_is_found_out(base: type) -> None:
    class Longer(base):
        def map(self, site: Site, prepared: None, z: Tensor) -> Tensor:
            return 1.05 * super().map(site, prepared, z)

        def sample(self, site: Site, prepared: None, batch: int, generator: torch.Generator) -> Tensor:
            return 1.05 * super().sample(site, prepared, batch, generator)

    if base is Isotropic:
        del Longer.sample
    else:
        del Longer.map
    with pytest.raises(CheckFailed, match=r"E\[δ y\] at site '\d'.*: expected "):
        check_guess_method(Longer, unbiased=True)
    with pytest.raises(CheckFailed, match=r"the (covariance|squared guess) at site '\d'.*: expected "):
        check_guess_method(Longer, covariance=identity)


def test_a_biased_method_that_claims_none_is_found_out() -> None:
    with pytest.raises(
        CheckFailed, match=r"E\[δ y\] at site '0': expected the gradient g, to 1e-06, found a difference"
    ):
        check_guess_method(Wt, unbiased=True)
