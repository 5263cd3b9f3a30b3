"""fg-plugin-example: the guess method example. Imports no torch, as fg loads this module for every command."""

from pydantic import Field

from fgcli import Entry, GuessOptions, hookimpl

FG_CONTRACT = 2


class ExampleOptions(GuessOptions):
    """Options of example."""

    share: float = Field(default=0.5, ge=0, le=1, description="Share of the noise that is white; the rest is W̃ᵀ's.")


@hookimpl
def fg_guess_methods() -> list[Entry]:
    return [Entry("example", "fg_plugin_example.guess:Example", "White noise and W̃ᵀ's, mixed.", ExampleOptions)]
