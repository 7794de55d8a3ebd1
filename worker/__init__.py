"""Inference: knows llama-cpp-python, knows nothing of HTTP."""

from worker.machine import tune_openmp

tune_openmp()  # here, since any of this package's modules may be the first to load libgomp with llama_cpp
