"""Running rounds on an engine: state, batches, slices, validation."""
