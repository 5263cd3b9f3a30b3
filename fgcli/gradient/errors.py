"""What the core refuses."""


class ModelRefused(ValueError):
    """The model cannot be trained by the method asked for. The message names the site and the mend."""


class OptionRefused(ValueError):
    """An option of the engine that this method, or this model with it, cannot have. The message says which and why."""


class GuessFault(RuntimeError):
    """A guess method that raised, or gave what the engine cannot use. The message names the site."""

    def __init__(self, site: str, fault: str) -> None:
        super().__init__(f"site '{site}': {fault}")
