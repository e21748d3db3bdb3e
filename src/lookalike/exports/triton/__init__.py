"""Triton Inference Server: a model repository around an ONNX file, and the server itself."""
