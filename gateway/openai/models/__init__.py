"""The models that may be asked for."""
