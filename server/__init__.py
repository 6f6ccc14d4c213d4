"""The inference server: recommendations and embeddings over gRPC, with dynamic batching on ONNX Runtime."""
