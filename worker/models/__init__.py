"""GGUF files: which one is served, where it comes from, converting it."""
