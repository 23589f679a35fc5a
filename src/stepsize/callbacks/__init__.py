"""Lightning callbacks, one concept each."""
