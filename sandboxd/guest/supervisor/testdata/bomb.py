# A fork bomb in machine code, for tests: Python never gets to run its signal handlers.
import ctypes, mmap
fork, setsid, again = b'\xb8\x39\x00\x00\x00\x0f\x05', b'\xb8\x70\x00\x00\x00\x0f\x05', b'\xeb'
loop = fork + (setsid if LEAVE else b'')
memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
memory.write(loop + again + bytes([254 - len(loop)]))
ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))()
