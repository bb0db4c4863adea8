"""Weak models and what patches them: their data, the rules, the patched model, its metrics and reports.

Somebody else's program imports `patching.patched_model`. It may have a `utils` or a `models` of its own, which Python
takes for this project's; that is found here, before it fails somewhere inside.
"""

from importlib.util import find_spec
from pathlib import Path

_TOP = Path(__file__).resolve().parents[1]

for _name in ("configures", "utils", "dataset", "models", "modules"):
    _spec = find_spec(_name)
    _places = [_spec.origin, *(_spec.submodule_search_locations or ())] if _spec else []
    _found = next(filter(None, _places), "nothing")
    if Path(_found).resolve() != _TOP / _name / "__init__.py":
        raise ImportError(
            f"patching needs {_TOP / _name}, but here `import {_name}` finds {_found}: rename that, or export the "
            "patched model as docs/patching.md shows, and load it without this project"
        )
