"""What the core refuses."""


class ModelRefused(ValueError):
    """The model cannot be trained by the method asked for. The message names the site and the mend."""


class OptionRefused(ValueError):
    """An option of the engine that this method, or this model with it, cannot have. The message says which and why."""


class GuessFault(RuntimeError):
    """A guess method that raised, or gave what the engine cannot use. The message names the site."""

    def __init__(self, site: str, fault: str) -> None:
        super().__init__(f"site '{site}': {fault}")


class UnknownSite(Exception):
    """A use or a parameter that the look at the model did not come by: a branch on values leads there, say."""


class LossRefused(ValueError):
    """A loss that has no derivative where one is needed. The message says what it gave and what it must give."""


class ProcessGone(RuntimeError):
    """Another of the processes that estimate together does not answer any more."""
