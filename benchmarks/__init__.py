"""Load against this project's server and its peers, and what was measured."""

import os
from pathlib import Path

# As it was before an import of the worker tuned OpenMP for this process. The servers under test get it, so
# that each has its own defaults.
ENVIRONMENT = dict(os.environ)
ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "bench"  # results, logs of servers, and what tuning found
INSTALLED = ROOT / ".cache" / "bench-peers"  # environments and builds of peers
