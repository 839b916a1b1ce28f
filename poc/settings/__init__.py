"""What an operator sets, and where secrets come from."""
