"""Load against this project's server and its peers, and what was measured."""

import os

# As it was before an import of the worker tuned OpenMP for this process. The servers under test get it, so
# that each has its own defaults.
ENVIRONMENT = dict(os.environ)
