"""What feedback has no gradient for."""

from collections.abc import Collection, Iterator

from fgcli.gradient.sites import Network


def unpredicted(network: Network, places: Collection[str], correction: float) -> Iterator[str]:
    """Parameters behind the last sites, and sites before one whose input belongs to no sample."""
    for name in network.behind_last:
        yield (
            f"parameter '{name}' lies between the last layers and the loss that the model gives, where feedback has no "
            "gradient for it: give a loss_fn of the outputs, or leave feedback out"
        )
    if correction >= 1:  # the guess's own estimate is of all that is missing
        return
    found = {*places, *(name for name, site in network.sites.items() if site.is_output)}
    for site in network.guessed:
        for name in site.reaches:
            if name not in found:
                why = network.mixes or "it has one output for the whole batch"
                yield (
                    f"site '{name}', which '{site.name}' leads to, has no sample's own input ({why}), so that feedback "
                    "predicts nothing there: set correction=1, or leave feedback out"
                )
