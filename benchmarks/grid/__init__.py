"""Times of all methods, the textbook's layers and PyTorch's recurrent ones over users' sizes."""
