"""The inference server: gRPC in front, batched ONNX Runtime sessions behind, a catalogue beside them."""
