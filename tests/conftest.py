"""For every test: programs are compiled anew, so that no test sees what another run of the compiler left on disk."""

import os

os.environ["GRAPHOPT_CACHE"] = "0"
os.environ["GRAPHOPT_CRASH_DIR"] = "0"  # failures that tests make on purpose leave no folders
