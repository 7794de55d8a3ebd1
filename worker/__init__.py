"""Inference: knows llama-cpp-python, knows nothing of HTTP."""
