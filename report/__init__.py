"""What people look at: figures, the report page, the view of a running search."""

import contextlib
import os

# A notebook names its backend in the environment, and matplotlib is not imported where that is not installed. Figures
# are drawn without a backend; others in this process find theirs as they left it.
_backend = os.environ.pop("MPLBACKEND", None)
import matplotlib  # noqa: E402

if _backend is not None:
    os.environ["MPLBACKEND"] = _backend
    with contextlib.suppress(ValueError):
        matplotlib.rcParams["backend"] = _backend
