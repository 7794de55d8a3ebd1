"""Messages, and the counting of their tokens."""
