"""What a round is and what is drawn for it: no HTTP, no SQLite, no vLLM."""
