from typing import Any

import pytest
from pydantic import ValidationError

from fgcli.models.options import MLPOptions


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"width": 0}, "greater than or equal to 1"),
        ({"depth": 0}, "greater than or equal to 1"),
        ({"activation": "swish"}, "'relu', 'gelu'"),
        ({"widht": 3}, "not permitted"),
    ],
)
def test_options_out_of_bounds_are_refused(given: dict[str, Any], message):
    with pytest.raises(ValidationError, match=message):
        MLPOptions(**given)
