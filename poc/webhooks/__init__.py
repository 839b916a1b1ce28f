"""A sender of Standard Webhooks with a guard over addresses; it knows nothing of proofs."""
