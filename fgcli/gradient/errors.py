"""What the core refuses."""


class ModelRefused(ValueError):
    """The model cannot be trained by the method asked for. The message names the site and the mend."""
