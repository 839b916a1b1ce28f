"""Standing verification: delivered batches are sampled, recomputed by workers and judged."""
