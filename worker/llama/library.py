"""The one import of llama-cpp-python: `from worker.llama.library import llama_cpp`.

Loading it loads libgomp, which reads its environment once and for all.
"""

from worker.llama.machine import tune_openmp

tune_openmp()

import llama_cpp  # noqa: E402  # libgomp has to find its environment as it should be

__all__ = ["llama_cpp"]
