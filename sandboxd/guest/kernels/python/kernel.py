"""The Python kernel: runs one cell after another in one namespace. See docs/kernel-protocol.md.

This file starts the package dormouse_kernel in the same folder. After the kernel has sent `ready`, it removes this folder
from sys.path and adds the working directory and the user's site packages. Python runs none of the user's files before that.
"""

import signal

signal.signal(signal.SIGINT, signal.SIG_IGN)  # no code of the user runs yet

from dormouse_kernel import loop

loop.main()
