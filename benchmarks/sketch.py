"""A plugin: `local` whose matrices learn from random sketches of e, in place of e (feedback-sketch.yaml)."""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from fgcli import EngineOptions, Entry, Place, hookimpl
from fgcli.methods.feedback import LocalFeedback

FG_CONTRACT = 2


@hookimpl
def fg_feedback_rules() -> list[Entry]:
    return [
        Entry(f"sketch-{length}", f"sketch:Sketch{length}", f"e as {length} random sums of it.", EngineOptions)
        for length in (32, 128)
    ]


class Sketch32(LocalFeedback):
    length = 32

    def predict(self, place: Place, e: Tensor) -> Tensor:
        return super().predict(replace(place, outputs=self.length), self._sketched(place, e))

    def learn_from_layer(self, place: Place, e: Tensor, gradient: Tensor) -> Mapping[str, Tensor]:
        return super().learn_from_layer(place, self._sketched(place, e), gradient)

    def _sketched(self, place: Place, e: Tensor) -> Tensor:
        """Sums with Gaussian weights [rows, length], the same in every step."""
        return e @ place.normal((e.shape[1], self.length), e) / self.length**0.5


class Sketch128(Sketch32):
    length = 128
