"""`hallmark demo`: a whole round told step by step."""
