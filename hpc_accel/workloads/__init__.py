"""What is trained: built-in models with their data, and the user's own entry points."""
