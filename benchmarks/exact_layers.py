"""Feedback `local` with four layers by their own weights in place of one: a remedy where depth is what it fades of."""

from fgcli import EngineOptions, Entry, hookimpl
from fgcli.methods.feedback import LocalFeedback

FG_CONTRACT = 2


class FourLayers(LocalFeedback):
    """W_kᵀ b_k, four times over."""

    layers = 4


@hookimpl
def fg_feedback_rules() -> list[Entry]:
    return [
        Entry("local-4", f"{__name__}:FourLayers", "As `local`, with four layers by their own weights.", EngineOptions)
    ]
