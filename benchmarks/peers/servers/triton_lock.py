"""The `sitecustomize` of Triton's environment, read at its start by the Python that Triton brings.

This Python is older than the standard library that it finds: from 3.11.7 on `multiprocessing` asks its lock for a
recursion count, which of the two kinds of RLock only the pure one has there. Nothing that is measured uses this lock.
"""

from __future__ import annotations

import threading
from multiprocessing import resource_tracker

if not hasattr(threading.RLock(), "_recursion_count"):
    vars(resource_tracker)["_resource_tracker"]._lock = vars(threading)["_RLock"]()
