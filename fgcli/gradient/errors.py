"""What the core refuses."""


class ModelRefused(ValueError):
    """The model cannot be trained by the method asked for. The message names the site and the mend."""


class GuessFault(RuntimeError):
    """A guess method that raised, or gave what the engine cannot use. The message names the site."""

    def __init__(self, site: str, fault: str) -> None:
        super().__init__(f"site '{site}': {fault}")
