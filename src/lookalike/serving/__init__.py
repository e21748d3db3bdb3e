"""Encoders and classifiers behind HTTP: requests, limits, batches, metrics and the processes of a server."""
