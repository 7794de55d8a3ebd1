"""The first deployment's own route."""
