"""Set before anything is imported: libgomp reads it when it is loaded."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads of two engines on two cores stand still
