"""The edge: gRPC in, domain words out, and back."""
