"""`hallmark receiver`: take the callbacks of servers and keep them, and read what came."""
