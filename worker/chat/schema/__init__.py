"""JSON Schemas of clients, made fit for llguidance."""
