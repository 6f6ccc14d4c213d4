"""The `sitecustomize` of Triton's environment, read at its start by the Python that Triton brings.

This Python is older than the standard library that it finds: since 3.11.7 `multiprocessing` reads the recursion
count of its lock, which only the pure-Python RLock has there. Nothing that is measured uses this lock.
"""

from __future__ import annotations

import threading
from multiprocessing import resource_tracker

if not hasattr(threading.RLock(), "_recursion_count"):
    vars(resource_tracker)["_resource_tracker"]._lock = vars(threading)["_RLock"]()
