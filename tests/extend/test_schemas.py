"""Whatever is given as an option of anything that fg has: taken, and written down as it was, or refused in a line."""

import json
import re

from hypothesis import given
from hypothesis import strategies as st

from fgcli.errors import UsageError
from fgcli.extend.registry import Registry, load_registry
from fgcli.recipe import Source, dump, resolve
from fgcli.recipe_keys import Section
from fgcli.yaml_reader import read_yaml

REGISTRY: Registry = load_registry()
NAMES: dict[Section, list[str]] = {
    "method": REGISTRY.method_names(),
    "dataset": REGISTRY.names("dataset"),
    "model": REGISTRY.names("model"),
    "loss": REGISTRY.names("loss"),
    "optimizer": REGISTRY.names("optimizer"),
    "lr_schedule": REGISTRY.names("lr_schedule"),
}
PLACES: dict[Section, str] = {
    "method": "options",
    "dataset": "dataset_options",
    "model": "model_options",
    "loss": "loss_options",
    "optimizer": "optimizer_options",
    "lr_schedule": "lr_schedule_options",
}
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.sampled_from([0, 1, 2, 3, 10, 0.5, 1e300]) | st.floats() | st.text()
)


@st.composite
def recipes(draw: st.DrawFn) -> dict[str, object]:
    section: Section = draw(st.sampled_from([*NAMES]))
    name = draw(st.sampled_from(NAMES[section]))
    entry = REGISTRY.method(name)[1] if section == "method" else REGISTRY.entry(section, name)
    words = re.findall(r'"(\w+)"', json.dumps(entry.options.model_json_schema()))  # the allowed ones are among them
    keys = st.sampled_from([*entry.options.model_fields, "other"])
    values = SCALARS | st.lists(SCALARS, max_size=3) | st.sampled_from(words)
    return {section: name, PLACES[section]: draw(st.dictionaries(keys, values, max_size=3))}


@given(recipes())
def test_any_options_of_anything_are_taken_or_refused_in_one_line(overrides: dict[str, object]) -> None:
    try:
        recipe = resolve(None, overrides, REGISTRY)
    except UsageError as error:
        message = str(error)
    else:
        message = ""
        document = read_yaml(dump(recipe), "r.yaml")
        assert isinstance(document.data, dict)
        assert resolve(Source("r.yaml", document.data), {}, REGISTRY) == recipe
    assert message.isprintable()
