"""Random streams that are derived, never advanced: a key names a stream, and the same key draws it again."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

DRAWN_AT_ONCE = 16
"""Numbers N(0, 1) that torch makes together on the CPU: draws of multiples of it are one longer draw, cut up."""


@dataclass(frozen=True)
class Streams:
    """All random streams of a run, from its one seed.

    A stream is keyed by (seed, purpose, step, site), so that a resumed run, another number of workers or an added
    diagnostic changes no other draw.
    """

    seed: int

    def generator(
        self, purpose: str, step: int = 0, site: str = "", device: torch.device | str = "cpu"
    ) -> torch.Generator:
        """A stream, at its start.

        Args:
            purpose: what is drawn: "guess", say.
            step: number of the parameter update.
            site: where it is drawn.
            device: where the generator is.

        Returns:
            The generator of that key. The same key gives the same numbers.
        """
        generator = torch.Generator(device)
        generator.manual_seed(self._seed(purpose, step, site))
        return generator

    @contextmanager
    def for_layers(self, purpose: str, step: int, device: torch.device) -> Iterator[None]:
        """Within it torch's default generators are at that stream's start, afterwards as they were before.

        Layers such as Dropout draw from nothing else.

        Args:
            purpose: what is drawn.
            step: number of the parameter update.
            device: where the layers are.

        Returns:
            A context manager.
        """
        back = layers_again(device)
        # torch.manual_seed does this for every backend, and takes a hundred times as long.
        for generator in default_generators(device):
            generator.manual_seed(self._seed(purpose, step, ""))
        try:
            yield
        finally:
            back()

    def _seed(self, purpose: str, step: int, site: str) -> int:
        key = f"{self.seed}/{purpose}/{step}/{site}".encode()
        # The CPU generator keeps the low 32 bits of a seed: a hash's low bits differ where a counter's might not.
        return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1

    def at(self, step: int) -> "StepRng":
        """The streams of one training step.

        Args:
            step: number of the parameter update.

        Returns:
            What an estimator draws from at that step.
        """
        return StepRng(self, step)


def layers_again(device: torch.device) -> Callable[[], None]:
    """What brings torch's default generators back to where they are now, so that layers draw the same once more."""
    generators = default_generators(device)
    states = [generator.get_state() for generator in generators]

    def again() -> None:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)

    return again


@contextmanager
def drawing_again(again: Callable[[], None] | None, device: torch.device) -> Iterator[None]:
    """Within it layers draw what they drew once before, as `layers_again` noted it; None: they go on."""
    if again is None:
        yield
        return
    back = layers_again(device)
    again()
    try:
        yield
    finally:
        back()


def default_generators(device: torch.device) -> list[torch.Generator]:
    """Those that layers draw from on this device: Dropout, say."""
    own = {
        "cuda": lambda: [torch.cuda.default_generators[device.index or 0]],
        "mps": lambda: [torch.mps._get_default_mps_generator()],
    }
    return [torch.default_generator, *own.get(device.type, list)()]


_SIGNS = 2 * (torch.arange(256).unsqueeze(1) >> torch.arange(8) & 1).char() - 1
"""The eight signs of each byte."""


@dataclass(frozen=True)
class Signs:
    """Random signs, a bit each."""

    bits: Tensor
    """uint8, of eight signs."""
    shape: tuple[int, ...]
    first: int = 0
    """Bits before the first sign."""

    def rows(self, start: int, stop: int) -> "Signs":
        """Some of them, by the first axis.

        Args:
            start: the first row.
            stop: the row behind the last one.

        Returns:
            These alone, in memory of their own.
        """
        each = math.prod(self.shape[1:])
        first, last = self.first + start * each, self.first + stop * each
        return Signs(self.bits[first // 8 : -(-last // 8)].clone(), (stop - start, *self.shape[1:]), first % 8)

    def values(self, dtype: torch.dtype) -> Tensor:
        """As numbers.

        Args:
            dtype: of the numbers.

        Returns:
            1 or -1 in `shape`.
        """
        table = _SIGNS.to(self.bits.device, dtype)
        flat = F.embedding(self.bits.int(), table).flatten()
        return flat[self.first :][: math.prod(self.shape)].view(self.shape)


@dataclass(frozen=True)
class StepRng:
    """The streams of one step: what an estimator draws from."""

    streams: Streams
    step: int

    def generator(self, purpose: str, site: str = "", device: torch.device | str = "cpu") -> torch.Generator:
        """A stream of this step, at its start.

        Args:
            purpose: what is drawn.
            site: where it is drawn.
            device: where the generator is.

        Returns:
            The generator of that key.
        """
        return self.streams.generator(purpose, self.step, site, device)

    def part(self, number: int) -> "StepRng":
        """The streams of a part of the step's batch.

        Args:
            number: of the part, from 0.

        Returns:
            Streams of its own; of part 0, these.
        """
        if number == 0:
            return self
        return Streams(self.generator("part", str(number)).initial_seed()).at(self.step)

    @property
    def shared(self) -> "StepRng":
        """The streams of what has one draw for the whole batch."""
        return self

    def in_parts(self, parts: Sequence[slice]) -> "StepRng":
        """The streams for a batch that is taken in parts, with the draws of the whole.

        Args:
            parts: its rows.

        Returns:
            Streams that `advance` moves on.
        """
        return ContinuedRng(self.streams, self.step, parts) if len(parts) > 1 else self

    def advance(self, samples: int) -> None:
        """Go on to the next part.

        Args:
            samples: of the part that is done.
        """

    def normal_(self, z: Tensor, purpose: str, site: str) -> None:
        """Fill z with standard normal noise.

        Args:
            z: what is filled; its first axis is the samples, if what is drawn has any.
            purpose: what is drawn.
            site: where it is drawn.
        """
        z.normal_(generator=self.generator(purpose, site, z.device))

    def normal(self, purpose: str, site: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Standard normal noise.

        Args:
            purpose: what is drawn.
            site: where it is drawn.
            shape: of the noise.
            like: a tensor of the dtype and device of the noise.

        Returns:
            N(0, I) of `shape`.
        """
        generator = self.generator(purpose, site, like.device)
        return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)

    def signs(self, purpose: str, site: str, shape: tuple[int, ...], device: torch.device) -> Signs:
        """Random signs, a quarter of the time of normal noise: eight are of one random number.

        Args:
            purpose: what is drawn.
            site: where it is drawn.
            shape: of the noise.
            device: where it is.

        Returns:
            Signs of mean 0.
        """
        number, generator = -(-math.prod(shape) // 8), self.generator(purpose, site, device)
        return Signs(torch.randint(256, (number,), generator=generator, device=device, dtype=torch.uint8), shape)


@dataclass(frozen=True)
class ContinuedRng(StepRng):
    """The same streams for a batch in parts: together the parts draw what the whole batch does.

    Where the CPU draws numbers by blocks, and a part has whole ones of them, it begins where the part before has left
    the stream. Elsewhere the whole batch's numbers are drawn for each part, which takes its own of them.

    Within a part a key draws the same again.
    """

    parts: Sequence[slice] = ()
    """Of the batch, by samples, one after the other."""
    _passed: list[int] = field(default_factory=list)
    _generators: dict[tuple[str, str], torch.Generator] = field(default_factory=dict)
    _starts: dict[tuple[str, str], Tensor] = field(default_factory=dict)

    def generator(self, purpose: str, site: str = "", device: torch.device | str = "cpu") -> torch.Generator:
        key = (purpose, site)
        if key not in self._generators:
            self._generators[key] = super().generator(purpose, site, device)
        generator = self._generators[key]
        if key not in self._starts:
            self._starts[key] = generator.get_state()
        generator.set_state(self._starts[key])
        return generator

    @property
    def shared(self) -> StepRng:
        return StepRng(self.streams, self.step)

    def normal_(self, z: Tensor, purpose: str, site: str) -> None:
        if self._continues(z.shape, z.device):
            super().normal_(z, purpose, site)
            return
        whole = z.new_empty(self._whole(z.shape))
        self.shared.normal_(whole, purpose, site)
        z.copy_(whole[self._part])

    def signs(self, purpose: str, site: str, shape: tuple[int, ...], device: torch.device) -> Signs:
        if self._continues(shape, device):
            return super().signs(purpose, site, shape, device)
        return self.shared.signs(purpose, site, self._whole(shape), device).rows(self._part.start, self._part.stop)

    def advance(self, samples: int) -> None:
        self._passed.append(1)
        self._starts.clear()

    @property
    def _part(self) -> slice:
        return self.parts[len(self._passed)]

    def _whole(self, shape: Sequence[int]) -> tuple[int, ...]:
        return self.parts[-1].stop, *shape[1:]

    def _continues(self, shape: Sequence[int], device: torch.device) -> bool:
        each, last = math.prod(shape[1:]), self.parts[-1]
        blocks = all(part.start * each % DRAWN_AT_ONCE == 0 for part in self.parts)
        return device.type == "cpu" and blocks and (last.stop - last.start) * each >= DRAWN_AT_ONCE
