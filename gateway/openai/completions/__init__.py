"""Text completions, OpenAI's legacy API."""
