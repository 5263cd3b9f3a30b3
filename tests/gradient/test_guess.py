"""Contract 2: what is said where a guess method breaks it, and where it keeps it."""

from typing import Any, ClassVar

import pytest
import torch
from networks import batch_for, chain, cross_entropy
from parts import in_parts
from torch import Tensor

from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.errors import GuessFault
from fgcli.gradient.guess import GuessMethod, Isotropic, Layer, LinearMap, Memory, Needs, SampledGuess
from fgcli.gradient.randomness import Streams
from fgcli.gradient.upstream import LinearUpstream, UpstreamJacobian

RNG = Streams(3).at(7)
MODEL = chain(5, 7, 4)
BATCH = batch_for(MODEL, 3)


def method(linearize: Any, prepare: Any = None, needs: Needs = "nothing") -> GuessMethod:
    """A method of these functions."""
    needed = needs

    class Made(GuessMethod):
        needs: ClassVar[Needs] = needed

        def prepare(self, layer: Layer, memory: Memory) -> Any:
            return prepare(layer, memory) if prepare else None

        def linearize(self, layer: Layer, upstream: UpstreamJacobian, prepared: Any) -> LinearMap:
            return linearize(layer, upstream, prepared)

    return Made()


def raising(*_: Any) -> Any:
    raise ValueError("no")


def mapping(function: Any, dim: int | None = None) -> GuessMethod:
    return method(lambda layer, _, __: LinearMap(layer.dim if dim is None else dim, function))


FAULTS: dict[str, tuple[GuessMethod, str]] = {
    "prepare raises": (method(raising, raising), "prepare raised ValueError: no"),
    "linearize raises": (method(raising), "linearize raised ValueError: no"),
    "no LinearMap": (
        method(lambda *_: torch.zeros(3, 7)),
        r"linearize returned a tensor \[3, 7\]; it must return a LinearMap",
    ),
    "no number": (mapping(lambda z: z, dim="k"), "linearize gave noise_dim 'k'; it must be a number of 0 or more"),  # type: ignore[arg-type]
    "negative": (mapping(lambda z: z, dim=-1), "linearize gave noise_dim -1"),
    "statistics": (
        method(lambda layer, _, __: LinearMap(layer.dim, lambda z: z, {"mean": 1.0})),  # type: ignore[dict-item]
        "linearize gave 'mean', a float, in statistics; tensors by name",
    ),
    "map raises": (mapping(raising), "map raised ValueError: no"),
    "map gives no tensor": (mapping(lambda z: z.tolist()), r"map returned a list; it must return a tensor \[2, 7\]"),
    "shape": (mapping(lambda z: z[:, :3]), r"map returned a tensor of shape \[2, 3\]; it must be \[2, 7\]"),
    "dtype": (mapping(lambda z: z.float()), "map returned a tensor of dtype torch.float32; it must be torch.float64"),
    "layout": (mapping(lambda z: z.to_sparse()), "map returned a tensor of layout torch.sparse_coo"),
    "graph": (mapping(lambda z: z.clone().requires_grad_()), "map returned a tensor that requires grad"),
    "square": (mapping(lambda z: z * z.abs()), "map is not linear: .* derives from SampledGuess"),
    "constant": (mapping(lambda z: z + 1), "map is not linear"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_name_the_site_and_what_was_given(name: str) -> None:
    guess, said = FAULTS[name]
    with pytest.raises(GuessFault, match=f"^site '0': {said}"):
        GuessEstimator(guess).bind(MODEL, BATCH.inputs)


def test_what_is_no_guess_method() -> None:
    with pytest.raises(
        TypeError, match=r"object is no guess method: it must derive from GuessMethod .* or SampledGuess"
    ):
        GuessEstimator(object())  # type: ignore[arg-type]
    guess = Isotropic()
    guess.needs = "everything"  # type: ignore[misc, assignment]
    with pytest.raises(TypeError, match=r"Isotropic.needs is 'everything'; it must be one of"):
        GuessEstimator(guess)


class Sampling(SampledGuess):
    needs: ClassVar[Needs] = "operator"

    def __init__(self, sample: Any) -> None:
        self.function = sample

    def sample(self, layer: Layer, upstream: UpstreamJacobian, prepared: Any, generator: torch.Generator) -> Tensor:
        return self.function(layer, upstream, generator)


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        (raising, "sample raised ValueError: no"),
        (lambda *_: torch.zeros(3, 2), r"sample returned a tensor of shape \[3, 2\]; it must be \[3, 7\]"),
        (lambda *_: None, "sample returned a NoneType"),
    ],
)
def test_faults_of_a_method_that_samples(sample: Any, said: str) -> None:
    estimator = GuessEstimator(Sampling(sample))
    estimator.bind(MODEL, BATCH.inputs)
    with pytest.raises(GuessFault, match=f"^site '0': {said}"):
        estimator.estimate(MODEL, cross_entropy, BATCH, RNG)


def test_a_method_that_samples_is_given_the_upstream_jacobian() -> None:
    given: list[Any] = []

    def sample(layer: Layer, upstream: UpstreamJacobian, generator: torch.Generator) -> Tensor:
        given.append(upstream)
        z = torch.randn(3, upstream.output_dim, dtype=torch.float64, generator=generator)
        return upstream.apply_transpose(z).sign()

    estimator = GuessEstimator(Sampling(sample))
    estimator.bind(MODEL, BATCH.inputs)
    assert estimator.estimate(MODEL, cross_entropy, BATCH, RNG).gradients["0.weight"].any()
    assert isinstance(given[0], LinearUpstream)


def test_a_layer_is_what_the_method_needs_to_know() -> None:
    seen: list[Layer] = []
    prepared: list[Layer] = []

    def linearize(layer: Layer, upstream: Any, ready: Any) -> LinearMap:
        seen.append(layer)
        assert upstream is None
        assert ready == layer.name
        return LinearMap(layer.dim, lambda z: z)

    def prepare(layer: Layer, memory: Memory) -> str:
        prepared.append(layer)
        return layer.name

    estimator = GuessEstimator(method(linearize, prepare))
    estimator.bind(MODEL, BATCH.inputs)
    seen.clear()
    prepared.clear()
    estimator.estimate(MODEL, cross_entropy, BATCH, RNG)
    weights = dict(MODEL.named_parameters())
    assert [(one.name, one.shape, one.dim, one.step) for one in seen] == [("0", (7,), 7, 7), ("2", (4,), 4, 7)]
    assert [one.output is None for one in prepared] == [True, True]
    for one in seen:
        assert one.output is not None
        assert one.output.shape == (3, *one.shape)
        assert torch.equal(one.weight, weights[f"{one.name}.weight"])
        assert not one.weight.requires_grad
    torch.testing.assert_close(seen[0].output, MODEL[0](BATCH.inputs).detach())
    assert seen[0].next_weight is not None
    assert torch.equal(seen[0].next_weight, weights["2.weight"])
    assert seen[1].next_weight is None


def test_statistics_are_means_over_the_parts_of_a_batch_and_the_next_prepare_sees_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_parts(monkeypatch, 16)
    read: list[Any] = []

    def linearize(layer: Layer, _: Any, __: Any) -> LinearMap:
        assert layer.output is not None
        return LinearMap(layer.dim, lambda z: z, {"mean": layer.output.mean(0)})

    def prepare(layer: Layer, memory: Memory) -> None:
        read.append((layer.name, memory.get("mean")))

    batch = batch_for(MODEL, 51)
    for memory in ("store", "replay"):
        estimator = GuessEstimator(method(linearize, prepare), memory=memory)
        estimator.bind(MODEL, batch.inputs[:3])
        assert estimator.state() == {}
        read.clear()
        estimator.estimate(MODEL, cross_entropy, batch, RNG)
        assert read == [("0", None), ("2", None)]
        torch.testing.assert_close(estimator.state()["0/mean"], MODEL[0](batch.inputs).detach().mean(0))
        estimator.estimate(MODEL, cross_entropy, batch, Streams(3).at(8))
        torch.testing.assert_close(read[2][1], MODEL[0](batch.inputs).detach().mean(0))


def test_memory_takes_tensors_by_name_and_gives_them_as_the_weight_is() -> None:
    memory = Memory()
    with pytest.raises(TypeError, match="memory takes tensors by name, not 'a', a int"):
        memory["a"] = 1  # type: ignore[assignment]
    memory["a"] = torch.ones(2, dtype=torch.float64)
    memory.like = torch.zeros(1)
    assert memory["a"].dtype == torch.float32
    assert memory.tensors["a"].dtype == torch.float64
    assert list(memory) == ["a"]
    del memory["a"]
    assert not len(memory)


def test_a_map_of_vectors_serves_a_site_of_several_axes() -> None:
    model = torch.nn.Sequential(torch.nn.Conv1d(2, 2, 2), torch.nn.Flatten(), torch.nn.Linear(6, 3)).double()
    inputs = torch.randn(3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    flat = GuessEstimator(mapping(lambda z: z))
    flat.bind(model, inputs)
    y = flat.linear_maps(model, inputs, 0)["0"].map(torch.arange(18.0, dtype=torch.float64).view(3, 6))
    assert y.shape == (3, 2, 3)
