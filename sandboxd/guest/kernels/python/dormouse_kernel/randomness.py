"""Gives new random state to a kernel whose memory was copied.

Without new state, the random generators of all copies would return the same values. Functions that get their random bytes
from the operating system each time (os.urandom, secrets, SystemRandom, uuid4) are not affected.
"""

import gc
import os
import sys

_SAME = "are the same as in the other copies of this sandbox"

# The types of objects that have random state, by the module that defines them.
_GENERATORS = {
    "random": ("Random",),
    "numpy.random.bit_generator": ("BitGenerator",),
    "numpy.random.mtrand": ("RandomState",),
    "torch": ("Generator",),
}

_frozen = []  # the generators among the objects that freeze() has hidden from gc.get_objects()
_count = 0  # how many objects were frozen after the last freeze()


def freeze():
    """Records all generators and calls gc.freeze(), after which gc.get_objects() no longer returns them."""
    global _count
    _frozen.extend(_find())
    gc.freeze()
    _count = gc.get_freeze_count()


def renew():
    """Gives new state to all generators that can be found, including those that the user has seeded. Returns one sentence
    for each library whose generators could not be renewed."""
    complaints = []
    generators = _all()
    for name, function in _FUNCTIONS.items():
        if name in sys.modules:
            try:
                complaint = function(sys.modules[name], generators)
            except Exception as exception:  # an unknown version, or a module of the user with that name
                complaint = f"The random values of {name} {_SAME}: {exception!r}"
            if complaint:
                complaints.append(complaint)
    return complaints


def _all():
    if gc.get_freeze_count() > _count:  # the user's code has called gc.freeze(), too
        gc.unfreeze()
        _frozen.clear()
        freeze()
    return _frozen + _find()


def _find():
    """Returns the generators that the garbage collector tracks. It does not find one that only C code refers to."""
    wanted = tuple(getattr(sys.modules[module], name, None) for module, names in _GENERATORS.items() if module in sys.modules for name in names)
    wanted = tuple(kind for kind in wanted if isinstance(kind, type))
    kinds = {}
    found = []
    for each in gc.get_objects():
        its = type(each)
        if its not in kinds:
            kinds[its] = not {*wanted}.isdisjoint(its.__mro__)
        if kinds[its]:
            found.append(each)
    return found


# The functions below call methods of the type, because the user may have replaced an attribute of the object.


def _random(random, generators):
    for generator in generators:
        if isinstance(generator, random.Random):
            random.Random.seed(generator, os.urandom(64))


def _numpy(mtrand, generators):
    from numpy.random import BitGenerator

    for generator in generators:
        if isinstance(generator, BitGenerator):
            type(generator).__setstate__(generator, type(generator)().__getstate__())
    for generator in generators:
        if isinstance(generator, mtrand.RandomState) and type(generator._bit_generator).__name__ == "MT19937":
            # The RandomState stores the second of a pair of normal values. seed() discards it.
            mtrand.RandomState.seed(generator)


def _torch(torch, generators):
    torch.seed()
    for generator in generators:
        if isinstance(generator, torch.Generator):
            generator.seed()


def _polars(polars, _):
    polars.set_random_seed(int.from_bytes(os.urandom(8), "big"))


def _arrow(compute, _):
    # Arrow's default seeds come from a generator that can't be renewed, so with_seed passes one.
    random = compute.random
    if hasattr(random, "_dormouse"):
        return

    def with_seed(n, *, initializer="system", options=None, memory_pool=None):
        if initializer == "system":
            initializer = int.from_bytes(os.urandom(7), "big")
        return random(n, initializer=initializer, options=options, memory_pool=memory_pool)

    with_seed.__name__, with_seed.__doc__, with_seed._dormouse = "random", random.__doc__, True
    compute.random = with_seed


def _duckdb(_, __):
    # setseed() on an open connection would cancel a query whose rows the user has not fetched yet.
    return f"In DuckDB connections that are already open, the values of random() and uuid() {_SAME}: open new connections, or call setseed()"


def _sqlite(sqlite, _):
    import ctypes

    library = ctypes.CDLL(getattr(sqlite, "__file__", None))
    library.sqlite3_randomness.argtypes = ctypes.c_int, ctypes.c_void_p
    library.sqlite3_randomness(0, None)  # makes SQLite seed itself before it draws the next value


def _uuid(uuid, _):
    # libuuid stores a clock sequence and may store a node. Without libuuid, uuid1() asks for random bits and uses the
    # node that is set below.
    uuid._generate_time_safe = None
    # This bit is never set in the address of a network card.
    uuid._node = int.from_bytes(os.urandom(6), "big") | 1 << 40
    for name in "_last_timestamp", "_last_timestamp_v6", "_last_timestamp_v7":
        if hasattr(uuid, name):
            setattr(uuid, name, None)


def _openssl(_, __):
    import _ssl

    # All generators of this OpenSSL, in all threads, draw from the one that this call seeds.
    _ssl.RAND_add(os.urandom(64), 64.0)


def _cryptography(rust, _):
    import ctypes

    # The library may contain its own copy of OpenSSL.
    if ctypes.CDLL(rust.__file__).RAND_poll() != 1:
        return f"The random values of cryptography {_SAME}"


def _multiprocessing(process, _):
    if process.active_children():
        return f"The random values of child processes that are already running {_SAME}"
    process.current_process().authkey = os.urandom(32)


_FUNCTIONS = {
    "random": _random,
    "numpy.random.mtrand": _numpy,
    "torch": _torch,
    "polars": _polars,
    "pyarrow.compute": _arrow,
    "duckdb": _duckdb,
    "_sqlite3": _sqlite,
    "uuid": _uuid,
    "_hashlib": _openssl,
    "_ssl": _openssl,
    "cryptography.hazmat.bindings._rust": _cryptography,
    "multiprocessing.process": _multiprocessing,
}
