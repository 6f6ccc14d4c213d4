"""The bundle, its tokenizer and its ONNX sessions."""
