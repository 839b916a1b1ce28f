"""The subcommands of `hallmark`, and what they share."""
