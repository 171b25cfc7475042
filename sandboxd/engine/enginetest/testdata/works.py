"""What an allowlist of system calls that is too small would break, in Python."""
import asyncio, ctypes, errno, fcntl, mmap, multiprocessing, os, resource, select, shutil, signal, socket, sqlite3, ssl, subprocess, tempfile, threading, time, uuid
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import shared_memory

import numpy, pandas, scipy.linalg, scipy.optimize, sklearn.ensemble
import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt
import joblib


def square(x):
    return x * x


async def loop():
    p = await asyncio.create_subprocess_exec("cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    out, _ = await p.communicate(b"x" * 200000)
    assert len(out) == 200000
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    r, w = await asyncio.open_connection(*server.sockets[0].getsockname())
    await r.read()
    w.close()
    server.close()
    await asyncio.to_thread(time.sleep, 0.01)


def main():
    os.chdir(tempfile.mkdtemp())
    a = numpy.random.rand(200, 200)
    numpy.linalg.svd(a @ a)
    scipy.linalg.lu(a)
    sklearn.ensemble.RandomForestClassifier(20, n_jobs=2).fit(a, [0, 1] * 100)
    joblib.Parallel(n_jobs=2)(joblib.delayed(square)(i) for i in range(8))
    plt.plot([1, 2])
    plt.savefig("x.png")
    frame = pandas.DataFrame(a)
    frame.to_csv("x.csv")
    pandas.read_csv("x.csv")

    for method in ("fork", "spawn", "forkserver"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert pool.map(square, range(4)) == [0, 1, 4, 9]
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(square, range(4)))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(square, range(100)))
    with multiprocessing.Manager() as manager:
        manager.dict()["x"] = 1
    memory = shared_memory.SharedMemory(create=True, size=1 << 20)
    memory.close()
    memory.unlink()
    lock = multiprocessing.Lock()
    with lock:
        pass
    asyncio.run(loop())

    subprocess.run("ls -la / | sort | head >l && cp -a l m && tar cf t.tar m && gzip -f t.tar && sed -i s/a/b/ m && find . -name x && timeout 5 true "
                   "&& touch -d 2020-01-01 m && mkfifo f && nproc && date && df . && bash -c 'sleep 0.1 & wait'",
                   shell=True, check=True, stdout=subprocess.DEVNULL)
    assert subprocess.run(["sh", "-c", "kill -9 $$"]).returncode == -9
    os.posix_spawn("/bin/true", ["true"], {})
    os.wait()

    db = sqlite3.connect("x.db")
    db.execute("pragma journal_mode=wal")
    db.execute("create table a(b)")
    db.commit()
    shutil.copy2("x.csv", "y.csv")
    os.makedirs("d/e/f")
    shutil.copytree("d", "g")
    shutil.rmtree("g")
    os.mkfifo("fifo")
    os.link("x.csv", "hard")
    os.symlink("x.csv", "soft")
    os.utime("x.csv")
    with open("x.csv") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        fcntl.lockf
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
    with open("z", "w+b") as f:
        os.posix_fallocate(f.fileno(), 0, 4096)
        m = mmap.mmap(f.fileno(), 4096)
        m.madvise(mmap.MADV_WILLNEED)
        m.flush()
        m.close()

    master, slave = os.openpty()
    os.close(master)
    os.memfd_create("x")
    os.eventfd(1)
    os.pidfd_open(os.getpid())
    os.getrandom(8)
    os.nice(1)
    os.sched_getaffinity(0)
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    time.sleep(0.05)
    signal.pthread_kill(threading.get_ident(), 0)
    signal.sigtimedwait([signal.SIGUSR1], 0.01)
    a, b = socket.socketpair()
    a.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, b"\0\0\0\0")])
    b.recvmsg(10, 100)
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    b.settimeout(5)
    a.send(b"x")
    assert b.recv(1) == b"x"
    assert socket.getaddrinfo("127.0.0.1", 80, flags=socket.AI_ADDRCONFIG)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as near, socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_UDP) as far:
        far.bind(("127.0.0.1", 0))
        near.sendto(b"x", far.getsockname())
        assert far.recv(1) == b"x"
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        try:
            socket.socket(socket.AF_INET6, kind).close()
        except OSError as err:  # a kernel without IPv6
            assert err.errno == errno.EAFNOSUPPORT, err
    epoll = select.epoll()
    epoll.register(b)
    ssl.create_default_context()
    uuid.uuid1()
    os.uname(), os.getloadavg(), os.statvfs("/"), os.getgroups()
    ctypes.CDLL(None).getpid()
    print("all works")


if __name__ == "__main__":
    main()
