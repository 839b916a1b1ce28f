"""`hallmark doctor`: what keeps a node from proving itself, and what to do about it."""
