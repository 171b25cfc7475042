"""The Python kernel's parts.

    loop        reads requests, runs cells, says how they ended
    channel     the messages to the guest, gathered and in order
    streams     sys.stdout, sys.stderr and sys.stdin, put back before each cell
    interrupts  SIGINT, raised in the user's code and nowhere else
    cell        compiles a cell and runs it: last expression, top-level await
    plain       what is around a cell on the standard library: display(), !commands
    ipython     the same with IPython's InteractiveShell: magics, formatters
    mime        values as MIME bundles, within limits
    errors      tracebacks as text, without our own frames
    imports     what to do when the user imports matplotlib, pandas, …
    randomness  new random state, when the process was copied
    figures     matplotlib figures as PNG

Everything is imported before `ready`, so that the first cell is as fast as the second.
"""
