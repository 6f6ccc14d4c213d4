"""From the texts and ids of requests to ranked items. Independent of gRPC and ONNX Runtime."""
