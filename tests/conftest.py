"""For every test: programs are compiled anew, so that no test sees what another run of the compiler left on disk."""

import os

os.environ["GRAPHOPT_CACHE"] = "0"
