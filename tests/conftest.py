"""The tests see the built-ins alone, whatever plugins are installed beside fg."""

import os

os.environ["FG_PLUGINS"] = ""
