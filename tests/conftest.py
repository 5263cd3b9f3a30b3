"""The tests see the built-ins alone, whatever plugins are installed beside fg, and no test is held to a time."""

import os

from hypothesis import settings

os.environ["FG_PLUGINS"] = ""

settings.register_profile("fg", deadline=None)
settings.load_profile("fg")
