"""The Python kernel: runs one cell after another in one namespace. See docs/kernel-protocol.md.

The program is the package beside this file. When the kernel has sent `ready` it removes their folder from sys.path, and adds the working directory and the
user's site packages: no file of the user's runs before that.
"""

import signal

signal.signal(signal.SIGINT, signal.SIG_IGN)  # nothing to interrupt yet

from dormouse_kernel import loop

loop.main()
