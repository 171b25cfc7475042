"""The Python kernel. Its modules:

    loop        reads requests, runs cells and reports how they ended
    channel     gathers the messages to the guest and sends them in order
    streams     sys.stdout, sys.stderr and sys.stdin, restored before each cell
    interrupts  raises KeyboardInterrupt in the user's code when SIGINT arrives
    cell        compiles and runs a cell, also with a top-level await
    plain       display(), !commands and some magics, without IPython
    ipython     display(), !commands, magics and formatters, with IPython's InteractiveShell
    mime        converts values to MIME bundles within the protocol's limits
    errors      formats exceptions as text, without the kernel's own frames
    imports     adjusts modules such as matplotlib and pandas when the user imports them
    randomness  gives new random state to a kernel whose memory was copied
    figures     shows matplotlib figures as PNG

The kernel imports these modules before it sends `ready`, so that the first cell does not wait for them.
"""
