"""Encoders and classifiers as files for other programs: formats, precisions, verification, model card."""
