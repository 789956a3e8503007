"""For every test: programs are compiled anew, so that no test sees what another run of the compiler left on disk."""

import os

from hypothesis import settings

os.environ["GRAPHOPT_CACHE"] = "0"
os.environ["GRAPHOPT_VERIFY"] = "1"  # every kernel, as soon as it is lowered
os.environ["GRAPHOPT_CRASH_DIR"] = "0"  # failures that tests make on purpose leave no folders

settings.register_profile("graphopt", deadline=None)  # how long a machine takes is no property of the code
settings.load_profile("graphopt")
