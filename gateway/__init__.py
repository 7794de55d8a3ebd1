"""HTTP: knows the APIs, knows nothing of llama.cpp."""

# Not read from the metadata of an installation: on Modal the packages are source, and have none.
__version__ = "0.1.0"
