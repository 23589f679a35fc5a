"""A run that can be killed: stopped in order, saved whole, and continued as if it had never been stopped."""
