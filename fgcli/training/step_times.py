"""The times of single steps, and their quartiles."""

import statistics

WARM_UP = 5  # steps at the start of a process: memory pools fill, kernels are chosen


class StepTimes:
    """Milliseconds a step. The first steps of each process are kept apart, and count only where there are no others."""

    def __init__(self, warm: list[float] | None = None, cold: list[float] | None = None) -> None:
        self.warm = [] if warm is None else warm
        self.cold = [] if cold is None else cold
        self._warming_up = WARM_UP

    def add(self, milliseconds: float) -> None:
        """The time of one more step of this process."""
        if self._warming_up > 0:
            self._warming_up -= 1
            self.cold.append(milliseconds)
        else:
            self.warm.append(milliseconds)

    def mean(self) -> float:
        """The mean. ValueError before the first step."""
        return statistics.fmean(self._counted())

    def quartiles(self) -> tuple[float, float, float]:
        """The lower quartile, the median and the upper quartile. ValueError before the first step."""
        times = self._counted()
        if len(times) == 1:
            return times[0], times[0], times[0]
        lower, median, upper = statistics.quantiles(times, n=4, method="inclusive")
        return lower, median, upper

    def _counted(self) -> list[float]:
        if not (times := self.warm or self.cold):
            raise ValueError("no step was timed yet")
        return times
