"""`hallmark fleet`: start, watch and stop one round on many servers at once."""
