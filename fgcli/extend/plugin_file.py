"""A plugin that is one file, without packaging. Loaded on request only: `fgcli train --plugin ./my_method.py`."""

import hashlib
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from fgcli.errors import UsageError, exception_text
from fgcli.extend.plugins import Origin, Plugins


def add_file(plugins: Plugins, path: Path) -> Origin:
    """Import a file and register it as a plugin called like it. UsageError with the cause where that fails.

    Its version is the beginning of its sha256, so that a run's record says which text it was.
    """
    if path.suffix != ".py" or not path.stem.isidentifier():
        raise UsageError(f"--plugin is {path}; it must be a Python file whose name is that of a module: my_method.py")
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"--plugin {path} cannot be read: {error.strerror}") from error
    origin = Origin(path.stem, f"file {digest[:12]}", str(path), str(path))
    try:
        plugins.register(_imported(path.resolve()), origin)
    except (UsageError, KeyboardInterrupt):
        raise
    except BaseException as cause:
        raise UsageError(f"--plugin {path} cannot be used: {exception_text(cause)}") from cause
    return origin


def _imported(path: Path) -> ModuleType:
    """The module, under its own name, so that the entries' targets find it."""
    name = path.stem
    known = sys.modules.get(name)
    found = known.__spec__ if known else find_spec(name)
    if found is not None and (found.origin is None or Path(found.origin).resolve() != path):
        raise UsageError(f"--plugin {path} has the name of the module {name} of {found.origin}; rename the file")
    if known is not None:
        return known
    if (folder := str(path.parent)) not in sys.path:
        sys.path.append(folder)  # for what it imports from beside it; last, so that nothing there hides another module
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
