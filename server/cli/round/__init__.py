"""`hallmark round`: start, watch, validate and stop rounds on a running server."""
