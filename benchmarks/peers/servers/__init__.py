"""One server each, in the peer's own environment; of Swiftrec they import `job` and its way to ONNX Runtime."""
