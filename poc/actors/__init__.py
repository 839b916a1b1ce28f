"""Recomputing proofs on Ray: a cluster, actors with an engine each, and the pool that they make."""
