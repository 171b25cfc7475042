"""The Python kernel: runs one cell after another in one namespace. See docs/kernel-protocol.md.

This file only gets out of the user's way: the program is the package beside it, and once that is imported its folder
leaves sys.path and the working directory takes its place.
"""

import signal

signal.signal(signal.SIGINT, signal.SIG_IGN)  # nothing to interrupt yet

import sys

from dormouse_kernel import loop

sys.path[0] = ""
loop.main()
