"""A curve as a line of text, and a name in few letters. Imports nothing heavy."""

from collections.abc import Sequence

_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int = 24, low: float = 0.0, high: float = 1.0) -> str:
    """`width` characters, or one for each value where there are fewer, from values between low and high."""
    if not values:
        return ""
    count = min(width, len(values))
    chosen = [values[round(i * (len(values) - 1) / max(1, count - 1))] for i in range(count)]
    share = [min(max((value - low) / ((high - low) or 1.0), 0.0), 1.0) for value in chosen]
    return "".join(_BARS[round(part * (len(_BARS) - 1))] for part in share)


LONGEST = 24  # letters of a label


def shortened(name: str, longest: int = LONGEST) -> str:
    """A label of `longest` letters at most, without what is in the middle: labels differ at the end, too."""
    end = (longest - 1) // 2
    return name if len(name) <= longest else f"{name[: longest - 1 - end]}…{name[len(name) - end :]}"
