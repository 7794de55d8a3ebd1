"""How the gateway reaches a worker: in this process, or on Modal."""
