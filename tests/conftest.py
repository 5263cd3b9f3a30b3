"""The tests see the built-ins alone, whatever plugins are installed; none has a time limit, all are repeatable."""

import os

from hypothesis import settings

os.environ["FG_PLUGINS"] = ""

settings.register_profile("fg", deadline=None, derandomize=True)
settings.load_profile("fg")
