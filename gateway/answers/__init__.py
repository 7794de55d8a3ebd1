"""The life of an answer, whole or streamed, whatever its API."""
