"""From messages to a prompt, and from what the model writes to events. Knows nothing of llama.cpp."""
