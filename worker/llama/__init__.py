"""The only door to llama.cpp: models whose completions share one batch, and what they need of the machine."""
