"""The front: gRPC and nothing else. It passes bytes to a worker and sends what comes back."""
