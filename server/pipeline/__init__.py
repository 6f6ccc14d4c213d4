"""A request's way from texts and ids to ranked items; knows neither gRPC nor ONNX Runtime."""
