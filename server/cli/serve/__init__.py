"""`hallmark serve`: what is checked and planned before vLLM starts."""
