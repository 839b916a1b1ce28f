"""The HTTP face: vLLM's endpoint plugin, its routes and gate, the receiver, the command line."""
