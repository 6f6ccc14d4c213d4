"""The worker: takes calls as bytes, answers them a batch at a time; knows neither gRPC nor processes."""
