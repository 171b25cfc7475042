"""New random state for a kernel whose memory was copied: what its generators would give next, those of the other copies give too.

What asks the operating system each time (os.urandom, secrets, SystemRandom, uuid4) needs nothing.
"""

import gc
import os
import sys


def renew(complain):
    """Makes the state of all generators that can be found new, also of those that the user gave a seed. What can't be made new is
    told to complain, in a sentence."""
    for name, function in _FUNCTIONS.items():
        if name in sys.modules:
            try:
                function(sys.modules[name])
            except Exception as exception:  # a version that we do not know, or a module of the user's with that name
                complain(f"The random state of {name} is that of the sandbox that this one is a copy of: {exception!r}\n")


def _random(random):
    random.Random.seed(random._inst, os.urandom(64))  # which gc.freeze() has hidden
    for generator in _objects(random.Random):
        random.Random.seed(generator, os.urandom(64))


def _numpy(mtrand):
    from numpy.random import BitGenerator

    # The methods are asked of the type: np.random.seed itself may be somebody else's by now.
    for generator in _objects(BitGenerator):
        type(generator).__setstate__(generator, type(generator)().__getstate__())
    for generator in _objects(mtrand.RandomState):
        if type(generator._bit_generator).__name__ == "MT19937":
            mtrand.RandomState.seed(generator)  # it keeps half of a pair of normal values


def _torch(torch):
    torch.seed()
    for generator in _objects(torch.Generator):
        generator.seed()


def _polars(polars):
    polars.set_random_seed(int.from_bytes(os.urandom(8), "big"))


def _uuid(uuid):
    # libuuid keeps a clock sequence and may keep a node. Without it uuid1() asks for random bits and for this node.
    uuid._generate_time_safe = None
    uuid._node = int.from_bytes(os.urandom(6), "big") | 1 << 40  # the bit that no network card has
    for name in "_last_timestamp", "_last_timestamp_v6", "_last_timestamp_v7":
        if hasattr(uuid, name):
            setattr(uuid, name, None)


def _openssl(ssl):
    ssl.RAND_add(os.urandom(64), 64.0)  # all its generators, in all threads, draw from the one that this feeds


_FUNCTIONS = {"random": _random, "numpy.random.mtrand": _numpy, "torch": _torch, "polars": _polars, "uuid": _uuid, "_ssl": _openssl}


def _objects(kind):
    """All objects of a kind. A generator that only C code knows is not among them."""
    kinds = {}
    found = []
    for each in gc.get_objects():
        its = type(each)
        if its not in kinds:
            kinds[its] = kind in its.__mro__
        if kinds[its]:
            found.append(each)
    return found
