"""The running server: the data path, and the services around it."""
