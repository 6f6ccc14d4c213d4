"""The worker: handles calls in batches, bytes in and bytes out. Independent of gRPC and of processes."""
