"""The Python kernel: runs one cell after another in one namespace. See docs/kernel-protocol.md.

The program is the package beside this file. After the kernel has sent `ready` it removes this folder from sys.path, and adds the working directory and the
user's site packages. None of the user's files runs before that.
"""

import signal

signal.signal(signal.SIGINT, signal.SIG_IGN)  # no code of the user runs yet

from dormouse_kernel import loop

loop.main()
