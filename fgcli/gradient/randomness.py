"""Random streams that are derived, never advanced: a key names a stream, and the same key draws it again."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


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
        """The stream of that key, at its start, on `device`."""
        key = f"{self.seed}/{purpose}/{step}/{site}".encode()
        # The CPU generator keeps the low 32 bits of a seed: a hash's low bits differ where a counter's might not.
        seed = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1
        generator = torch.Generator(device)
        generator.manual_seed(seed)
        return generator

    def at(self, step: int) -> "StepRng":
        """The streams of one training step."""
        return StepRng(self, step)


@dataclass(frozen=True)
class StepRng:
    """The streams of one step: what an estimator draws from."""

    streams: Streams
    step: int

    def generator(self, purpose: str, site: str = "", device: torch.device | str = "cpu") -> torch.Generator:
        """The stream of (purpose, this step, site), at its start."""
        return self.streams.generator(purpose, self.step, site, device)

    def normal(self, purpose: str, site: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """N(0, I) of `shape`, in the dtype and on the device of `like`."""
        generator = self.generator(purpose, site, like.device)
        return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)
