"""Types of the export's own: those of arrays that the server shares are in `server.arrays`."""

from __future__ import annotations

from swiftrec.server.arrays import Positions

Histories = list[Positions]
"""The items of each user or case, oldest first."""
