"""A measured quantity: title, unit, which direction is better, how its numbers are written. Imports no torch."""

import math
from dataclasses import dataclass
from typing import Literal

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
DIGITS = 3
HUGE = 1e6
MIB = 2.0**-20


@dataclass(frozen=True)
class Quantity:
    """One measured quantity. Its numbers are multiplied by `scale` to have `unit`."""

    title: str
    better: Literal["higher", "lower"] | None = None
    style: Literal["decimals", "digits", "powers", "plain"] = "decimals"
    unit: str = ""
    scale: float = 1.0
    of_machine: bool = False
    """Whether it depends on the device and its load, so that it is compared by ratios, and on one machine only."""
    lowest: float = 0.0
    """The least that is possible; numbers are unscaled."""
    highest: float = math.inf
    key: str = ""
    """The name of the field that holds it; that of a record's field is filled in by `quantities`."""

    @property
    def heading(self) -> str:
        return f"{self.title}, {self.unit}" if self.unit else self.title

    def fault(self, number: float) -> str:
        """What a number must be that is not possible, and what was probably meant; empty for one that is."""
        if math.isfinite(number) and self.lowest <= number <= self.highest:
            return ""
        if math.isinf(self.highest):
            return "it must be finite" + ("" if math.isinf(self.lowest) else f", and at least {self.lowest:g}")
        percent = self.highest < number <= 100 * self.highest
        meant = f"; did you mean {number / 100:g}?" if percent else ""
        return f"it must be from {self.lowest:g} to {self.highest:g}{meant}"

    def text(self, number: float, *, sign: bool = False) -> str:
        """The number alone."""
        return self._text(number * self.scale, number * self.scale, sign=sign)

    def with_half(self, mean: float, half: float | None, *, sign: bool = False) -> str:
        """Mean ± half the width of its interval, both to the digits of the mean: no more than the interval's second
        digit, and no fewer than its first."""
        centre = mean * self.scale
        if half is None:
            return self._text(centre, centre, sign=sign)
        half *= self.scale
        size = max(abs(centre), half) if sign else centre
        if self.style in ("decimals", "digits") and not self._in_powers(size) and half and math.isfinite(half):
            first = -int(f"{half:.1e}".partition("e")[2])
            places = max(0, sorted((first, self._places(size), first + 1))[1])
            return f"{centre:{'+' if sign else ''}.{places}f} ± {half:.{places}f}"
        if self._in_powers(size) and size:
            power = _power(size)
            numbers = f"{centre / 10**power:{'+' if sign else ''}.2f} ± {half / 10**power:.2f}"
            return f"({numbers}){_times(power)}" if power else numbers
        return f"{self._text(centre, size, sign=sign)} ± {self._text(half, size)}"

    def with_ends(self, mean: float, low: float, high: float, *, sign: bool = False) -> str:
        """Mean and the ends of a range, in as many digits."""
        numbers = [number * self.scale for number in (mean, low, high)]
        size = max(map(abs, numbers))
        centre, *ends = (self._text(number, size, sign=sign) for number in numbers)
        return f"{centre} [{', '.join(ends)}]"

    def tick(self, number: float) -> str:
        """The number beside an axis, with no more digits than it has."""
        scaled = number * self.scale
        if self.style != "powers" or not scaled:
            return f"{scaled:g}"
        power = _power(scaled)
        return f"{scaled / 10**power:g}{_times(power)}"

    def rounded(self, number: float) -> float:
        """The number as it is written."""
        scaled = number * self.scale
        places = self._places(scaled) if self.style != "powers" else DIGITS - 1 - _power(scaled)
        return round(scaled, places) / self.scale

    def _text(self, number: float, size: float, *, sign: bool = False) -> str:
        plus = "+" if sign else ""
        if self.style == "plain":
            whole = number == round(number, 0) and abs(number) < 10**9
            return f"{number:{plus}.0f}" if whole else f"{number:{plus}.{DIGITS if abs(number) < 100 else 6}g}"
        if self._in_powers(size):
            power = _power(number)
            return f"{number / 10**power:{plus}.2f}{_times(power)}"
        return f"{number:{plus}.{max(0, self._places(size))}f}"

    def _in_powers(self, size: float) -> bool:
        """Whether numbers of this size are written with a power of ten, as the loss of a run that diverges is."""
        return self.style == "powers" or (self.style == "decimals" and HUGE <= abs(size) < math.inf)

    def _places(self, size: float) -> int:
        """Decimal places for numbers of this size."""
        return DIGITS if self.style == "decimals" else DIGITS - 1 - _power(size)


def _power(number: float) -> int:
    """The power of ten of a number written with DIGITS digits."""
    return int(f"{abs(number):.{DIGITS - 1}e}".partition("e")[2]) if number and math.isfinite(number) else 0


def _times(power: int) -> str:
    return f"·10{str(power).translate(_SUPERSCRIPTS)}" if power else ""
