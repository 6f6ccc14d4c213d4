"""Admission, the queue of requests, and the forming of batches."""
