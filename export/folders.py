"""Replace a folder by another one so that a kill at any point loses neither.

A folder cannot be renamed onto a full one, so there are two renames: the old folder steps aside, then the new one takes
its name. If the process dies between them, `recover` ends what was begun: call it before the folder is read.
"""

from __future__ import annotations

import shutil
from pathlib import Path


def replace_folder(new: Path, target: Path) -> None:
    """Give the complete folder `new` the name `target`, and delete what had that name before."""
    old = _aside(target)
    try:
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
            target.replace(old)
        new.replace(target)
    except BaseException:  # Ctrl-C, too: the caller deletes `new`
        if old.exists() and not target.exists():
            old.replace(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def recover(new: Path, target: Path) -> None:
    """End a replacement that was cut off: by the new folder, or the old one if the new is gone; delete what is left."""
    old = _aside(target)
    if not old.exists():
        return
    if not target.exists():
        (new if new.exists() else old).replace(target)
    shutil.rmtree(old, ignore_errors=True)


def _aside(target: Path) -> Path:
    return target.with_name(f"{target.name}.old")
