"""The kit for plugin authors: one assertion that holds a new method, estimator or dataset to its contract.

    def test_mine() -> None:
        check_guess_method(lambda: Mine(MyOptions()), unbiased=True)

Each raises CheckFailed, an AssertionError that says what was expected and what was found. Seeds and numbers of draws
are fixed: a check that passes once passes always. A statistic fails at four standard errors. `run_fg` runs a command.
"""

from fgcli.testing.commands import Ran, run_fg
from fgcli.testing.datasets import check_dataset
from fgcli.testing.estimators import check_estimator
from fgcli.testing.expect import CheckFailed
from fgcli.testing.guesses import check_guess_method

__all__ = ["CheckFailed", "Ran", "check_dataset", "check_estimator", "check_guess_method", "run_fg"]
