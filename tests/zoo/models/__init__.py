"""Models as people write them. They know nothing of layouts; each function returns model, loss and data."""
