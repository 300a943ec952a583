"""Names of a package whose modules are imported when a name is used for the first time.

JAX, Flax and the decoders take seconds to import, which `--help` and a program that needs one module would wait for.
"""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Returns the function `__getattr__` of a package, which imports names when they are used.

    Args:
      package: the name of the package.
      modules: for each name of the package, the module that defines it, or the package that contains the module of that
        name.
    """

    def find(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(modules[name])
        value = getattr(module, name) if hasattr(module, name) else importlib.import_module(f"{modules[name]}.{name}")
        setattr(sys.modules[package], name, value)
        return value

    return find
