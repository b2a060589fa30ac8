"""Rights on shared servers: what a store makes in a folder that a group writes to, the group can use.

A process's umask would take these rights from new files (077 from all but their owner, 022 the right to write), and
then the first user's files lock everybody else out. What the folder itself allows decides instead. SQLite gives
the log and its index the rights of the catalog file.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path


def share(path: Path) -> None:
    """Give a new file or folder to the group of the folder that holds it, if that group may write there.

    Nothing is opened up where the group may not write, and nothing to anybody but that group. A file of another
    user is left as it is: only its owner may change it. So is one that does not exist.

    Parameters
    ----------
    path : pathlib.Path
        A file, which its group may then read and write; or a folder, which it may also enter, and whose new files
        get the group too (the setgid bit).
    """
    if sys.platform == "win32":  # rights are inherited from the folder there
        return
    try:
        above, own = path.parent.stat(), path.stat()
    except FileNotFoundError:
        return  # SQLite makes its log when it needs one
    wanted = stat.S_IRGRP | stat.S_IWGRP
    if stat.S_ISDIR(own.st_mode):
        wanted |= stat.S_IXGRP | (above.st_mode & stat.S_ISGID)
    is_shared = own.st_gid == above.st_gid and own.st_mode & wanted == wanted
    if is_shared or not above.st_mode & stat.S_IWGRP or os.geteuid() not in (own.st_uid, 0):
        return
    try:
        if own.st_gid != above.st_gid:
            os.chown(path, -1, above.st_gid)
        # After the group: else another group could read the file for a moment.
        path.chmod(stat.S_IMODE(own.st_mode) | wanted)
    except OSError:
        # Its owner is no member of the folder's group, or the file system knows no rights: it stays private, and
        # whoever may not use it reads which file that is.
        return
