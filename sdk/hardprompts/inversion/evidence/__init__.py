"""Evidence for the phrases of a prompt: what is measured of them, and what that says of their truth."""
