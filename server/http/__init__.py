"""The HTTP face of a node: plugin, routes, gate, metrics."""
