"""Continuous batching over any model: schedule, decode, sample, detokenize. Knows nothing of llama.cpp."""
