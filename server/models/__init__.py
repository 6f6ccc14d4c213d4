"""Bundles, their tokenizers, ONNX sessions and networks, and the registry of loaded bundles."""
