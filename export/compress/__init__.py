"""PyTorch to ONNX: traced, fused, quantised."""
