"""For all tests, however they were started."""

from __future__ import annotations

import signal

# Shells start background jobs with SIGINT ignored, and so would be every server and container under test.
signal.signal(signal.SIGINT, signal.default_int_handler)
