"""What a run logs, and how a run that is continued goes on logging."""
