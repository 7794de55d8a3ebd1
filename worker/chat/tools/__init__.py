"""Tools: told to the model, read from what it writes, enforced where the client insists."""
