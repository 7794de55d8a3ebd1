"""Grammars in GBNF, llama.cpp's notation, that hold a model to JSON of a given shape."""
