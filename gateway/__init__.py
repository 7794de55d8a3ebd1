"""HTTP: knows the OpenAI API, knows nothing of llama.cpp."""
