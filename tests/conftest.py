"""Set before anything is imported: libgomp reads it when it is loaded."""

import os

# As in production: an engine whose threads spin for long stands in the way of the others on a small machine.
os.environ.setdefault("GOMP_SPINCOUNT", "300")
