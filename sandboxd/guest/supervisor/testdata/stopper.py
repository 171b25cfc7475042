# Hostile code for tests. It leaves its kernel's session and waits for DELAY seconds. Then it stops every thread of every process that
# it has the permission to stop, again and again, with tgkill, pidfd_send_signal and ptrace.
import os, subprocess, sys

stopper = r'''
import ctypes, mmap, os, platform, signal, struct, sys, time
libc = ctypes.CDLL(None)
tgkill = {'x86_64': 234, 'aarch64': 131}[platform.machine()]
pidfd_send_signal, pidfd_open = 424, 434
PTRACE_ATTACH = 16

def stop(victims, rounds):
    for _ in range(rounds):
        for pid, tid in victims:
            libc.syscall(tgkill, pid, tid, signal.SIGSTOP)

if platform.machine() == 'x86_64':
    memory = mmap.mmap(-1, 1 << 20, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    call = ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))

    def stop(victims, rounds):  # the same in machine code, so that it also stops a process that it can reach only for a microsecond
        body = b''.join(struct.pack('<BIBIBIBIH', 0xb8, tgkill, 0xbf, pid, 0xbe, tid, 0xba, signal.SIGSTOP, 0x050f) for pid, tid in victims)
        memory.seek(0)
        memory.write(b'\x53\xbb' + struct.pack('<I', rounds) + body + b'\xff\xcb\x0f\x85' + struct.pack('<i', -len(body) - 8) + b'\x5b\xc3')
        call()

for _ in range(3):
    if os.fork() == 0:
        break
time.sleep(float(sys.argv[1]))
own = os.getsid(0)
while True:
    victims = []
    for pid in map(int, filter(str.isdigit, os.listdir('/proc'))):
        try:
            if os.getsid(pid) != own:
                victims += [(pid, int(tid)) for tid in os.listdir(f'/proc/{pid}/task')]
        except OSError:
            pass
    for pid, tid in victims:
        libc.ptrace(PTRACE_ATTACH, tid, None, None)
        fd = libc.syscall(pidfd_open, pid, 0)
        if fd >= 0:
            libc.syscall(pidfd_send_signal, fd, signal.SIGSTOP, None, 0)
            os.close(fd)
    stop(victims[:1000], 10000)
'''
subprocess.Popen([sys.executable or '/usr/bin/python3', '-c', stopper, str(DELAY)], start_new_session=True,
                 stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
