"""Recomputing proofs without a server."""
