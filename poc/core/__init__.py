"""What every room builds on: errors, checks of values, compact JSON."""
