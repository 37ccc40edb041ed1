"""Checkpoints that want to run code, fill the memory, or never end; made here, so that none lies about in a file.

Code in them makes a folder, in the working directory, whose name begins with PWNED.
"""

import io
import pickle
import struct
import tarfile
import zipfile
from collections import OrderedDict
from functools import partial

import torch
from torch import nn

RECORD = struct.pack("<q", 6) + bytes(24)  # of a legacy storage
DIRECTORY, END = b"PK\x01\x02", b"PK\x05\x06"

# -- pickles --


class Callable:
    def __call__(self):  # a pickler calls nothing, but insists that it could
        raise AssertionError


class Name(Callable):
    """Pickled as the global of this name, whether there is one or not."""

    def __init__(self, module, name):
        self.line = f"c{module}\n{name}\n".encode()


class Call(Callable):
    """Pickled as a call."""

    def __init__(self, function, *arguments, state=None):
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.parts


class Storage:
    """Pickled as a reference to a storage."""

    def __init__(self, count=6, key="0", kind=torch.FloatStorage, place="cpu", more=()):
        self.reference = ("storage", kind, key, place, count, *more)


class Pickler(pickle._Pickler):  # the one in C cannot be made to write any name
    def persistent_id(self, value):
        return getattr(value, "reference", None)

    def save(self, value, save_persistent_id=True):
        if isinstance(value, Name):
            self.write(value.line)
        else:
            super().save(value, save_persistent_id)


def pickled(tree):
    file = io.BytesIO()
    Pickler(file, 2).dump(tree)
    return file.getvalue()


def mark(name):
    return Call(Name("os", "mkdir"), f"PWNED-{name}")


def tensor(storage=None, offset=0, size=(2, 3), stride=(3, 1), *more):
    more = more or (False, OrderedDict())
    return Call(Name("torch._utils", "_rebuild_tensor_v2"), storage or Storage(), offset, size, stride, *more)


def old(key="0", count=6, view=None):
    """A tensor as in containers before torch 1.6."""
    return tensor(Storage(count, key, more=(view,)))


def doubled(times):
    """A list of twice the same list, of twice the same list, ..."""
    value = []
    for _ in range(times):
        value = [value, value]
    return value


def nested(depth):
    return b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."


def circle():
    value = []
    value.append(value)
    return value


# -- containers --


def archive(path, tree, record=bytes(24), *extra):
    """What torch.save writes, of a tree or the bytes of a pickle, with one storage and more entries."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", tree if isinstance(tree, bytes) else pickled(tree))
        file.writestr("archive/data/0", record)
        file.writestr("archive/version", b"3\n")
        for entry in extra:
            file.writestr(*entry)
    return path


def legacy(path, tree, *, keys=("0",), data=RECORD, system=None):
    """What torch.save wrote before torch 1.6."""
    parts = [0x1950A86A20F9469CFC6C, 1001, system, tree, list(keys)]
    path.write_bytes(b"".join(map(pickled, parts)) + data)


def changed(old, new, path):
    """A good archive in which bytes are others."""
    data = archive(path, tensor(), b"\x01" * 24).read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))


def overlapping(path):
    """An archive whose directory names one record 27 times."""
    data = archive(path, tensor(), bytes(4000)).read_bytes()
    begin, end = data.index(DIRECTORY), data.index(END)
    entry = next(e for e in data[begin:end].split(DIRECTORY) if b"data/0" in e)
    again = b"".join(DIRECTORY + entry.replace(b"data/0", b"data/%c" % letter) for letter in range(65, 91))
    tail = struct.pack("<4sHHHHIIH", END, 0, 0, 29, 29, end - begin + len(again), begin, 0)
    path.write_bytes(data[:end] + again + tail)


def twice(path):
    """An archive with two entries of one name, of which readers may take either."""
    archive(path, pickled([]), b"", ("archive/data.pkX", pickled(mark("twin"))))
    path.write_bytes(path.read_bytes().replace(b"data.pkX", b"data.pkl"))


def tar(path):
    with tarfile.open(path, "w") as file:
        file.add(__file__, "storages")


CODE = {
    "os.mkdir": mark("reduce"),
    "posix.mkdir": Call(Name("posix", "mkdir"), "PWNED"),
    "nt.system": Call(Name("nt", "system"), "mkdir PWNED"),
    "eval": Call(Name("builtins", "eval"), "__import__('os').mkdir('PWNED')"),
    "exec of Python 2": Call(Name("__builtin__", "exec"), "import os; os.mkdir('PWNED')"),
    "getattr of an import": Call(
        Call(Name("builtins", "getattr"), Call(Name("builtins", "__import__"), "os"), "mkdir"), "PWNED"
    ),
    "attrgetter": Call(Call(Name("operator", "attrgetter"), "system"), Call(Name("importlib", "import_module"), "os")),
    "partial": Call(Name("functools", "partial"), Name("os", "mkdir"), "PWNED"),
    "subprocess": Call(Name("subprocess", "Popen"), ("mkdir", "PWNED")),
    "runpy": Call(Name("runpy", "run_path"), "x.py"),
    "pip": Call(Name("pip", "main"), ["install", "x"]),
    "a pickle inside": Call(Name("_pickle", "loads"), mark("inner")),
    "torch.load": Call(Name("torch.serialization", "load"), "x.pth"),
    "load from bytes": Call(Name("torch.storage", "_load_from_bytes"), "x"),
    "torch.hub": Call(Name("torch.hub", "load"), "a/b", "c"),
    "a name with dots": Call(Name("torch", "hub.load"), "a/b", "c"),
    "a name with spaces": Call(Name("collections OrderedDict", ""), "a"),
    "numpy.load": Call(Name("numpy", "load"), "x.npy"),
    "a whole module": nn.Linear(2, 2),
    "bytearray": Call(Name("builtins", "bytearray"), 2**34),
    "a sparse tensor": Call(Name("torch._utils", "_rebuild_sparse_tensor"), 0, ()),
    "a set": {1, 2},
    "never used": [tensor(), mark("unused")],
    "in a key": {mark("key"): 1},
    "in a state": Call(Name("collections", "OrderedDict"), state=mark("state")),
    "in an argument": tensor(None, mark("argument")),
    "in a reference": tensor(Storage(place=mark("place"))),
    "INST": b"(S'PWNED'\nios\nmkdir\n.",
    "OBJ": b"(cos\nmkdir\nX\x05\x00\x00\x00PWNEDo.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93\x8c\x05PWNED\x85R.",
    "NEWOBJ_EX": b"\x80\x04ccollections\nOrderedDict\n)}\x92.",
    "EXT1": b"\x80\x02\x82\x01.",
    "EXT2": b"\x80\x02\x83\x01\x00.",
    "EXT4": b"\x80\x02\x84\x01\x00\x00\x00.",
    "PERSID": b"Pstorage\n.",
    "NEXT_BUFFER": b"\x80\x05\x97.",
    "POP": b"\x80\x02K\x01K\x010.",
    "below a mark": b"\x80\x02]K\x01(a.",
}
SIZES = {
    "a huge storage": tensor(Storage(2**60)),
    "a negative storage": tensor(Storage(-6)),
    "a storage longer than its record": tensor(Storage(7)),
    "a storage shorter than its record": tensor(Storage(5)),
    "no such record": tensor(Storage(key="1")),
    "a record by its path": tensor(Storage(key="../version")),
    "one storage of two types": [tensor(), tensor(Storage(kind=torch.IntStorage))],
    "an offset beyond": tensor(None, 7, (0,), (1,)),
    "a negative offset": tensor(None, -1),
    "a size beyond": tensor(None, 0, (7,), (1,)),
    "a stride beyond": tensor(None, 0, (2, 3), (4, 1)),
    "a negative stride": tensor(None, 5, (6,), (-1,)),
    "a negative size": tensor(None, 0, (-1,), (1,)),
    "sides that overflow": tensor(None, 0, (2**39, 2**39), (0, 0)),
    "an empty one whose sides overflow": tensor(None, 0, (0, 2**39), (1, 1)),
    "an expanded one": tensor(None, 0, (2**34,), (0,)),
    "many expanded ones": [tensor(None, 0, (100 + i,), (0,)) for i in range(1000)],
    "nine dimensions": tensor(None, 0, (1,) * 9, (1,) * 9),
    "fewer strides than sizes": tensor(None, 0, (2, 3), (1,)),
    "sizes in a list": tensor(None, 0, [2, 3], (3, 1)),
    "on no device": tensor(Storage(place="meta")),
    "quantised": tensor(Storage(kind=torch.QInt8Storage)),
    "without a type": tensor(Storage(kind=torch.UntypedStorage)),
    "with metadata": tensor(None, 0, (2, 3), (3, 1), False, OrderedDict(), {"conj": True}),
    "with hooks": tensor(None, 0, (2, 3), (3, 1), False, [1]),
    "a tensor with a state": pickled(tensor())[:-1] + b"}b.",
    "a list with a state": b"\x80\x02]}b.",
    "a parameter of nothing": Call(Name("torch._utils", "_rebuild_parameter"), 1, True, OrderedDict()),
    "a storage that is called": Call(Name("torch", "FloatStorage"), 2**40),
    "a reference to source code": b"\x80\x02(U\x06moduleccollections\nOrderedDict\nU\x01aU\x01btQ.",
    "a reference in a list": b"\x80\x02]Q.",
    "a reference by a number": b"\x80\x02K\x00Q.",
    "a tuple for a key": {(1, 2): 3},
    "keys with one hash": {i * (2**61 - 1): None for i in range(1, 9)},
    "text in another code": Call(Name("_codecs", "encode"), "a", "zip"),
    "a string as long as the file is not": b"\x80\x02X\xff\xff\xff\x7fabc.",
    "a number of two gigabytes": b"\x80\x02\x8b\xff\xff\xff\x7fabc.",
    "no end": b"\x80\x02]",
    "nothing": b"",
    "an unknown memo": b"\x80\x02j\xff\xff\xff\xff.",
}
ARCHIVES = {name: partial(archive, tree=tree) for name, tree in (CODE | SIZES).items()}
FILES = ARCHIVES | {
    "legacy code": lambda p: legacy(p, mark("legacy")),
    "legacy code for the system": lambda p: legacy(p, old(), system=mark("system")),
    "a huge legacy storage": lambda p: legacy(p, old(count=2**40)),
    "many legacy storages": lambda p: legacy(p, [old(str(i), 10**4) for i in range(100)]),
    "a legacy storage left out": lambda p: legacy(p, old(), keys=()),
    "a legacy storage twice": lambda p: legacy(p, old(), keys=("0", "0")),
    "legacy keys that explode": lambda p: legacy(p, old(), keys=(doubled(60),)),
    "a legacy storage of another length": lambda p: legacy(p, old(), data=struct.pack("<q", 5) + bytes(24)),
    "a cut legacy storage": lambda p: legacy(p, old(), data=struct.pack("<q", 6) + bytes(23)),
    "more behind a legacy storage": lambda p: legacy(p, old(), data=struct.pack("<q", 6) + bytes(25)),
    "a legacy view": lambda p: legacy(p, old(view=("0", 0, 6))),
    "a bare pickle": lambda p: p.write_bytes(pickled(mark("bare"))),
    "a pickle of text": lambda p: p.write_bytes(b"cos\nmkdir\n(S'PWNED'\ntR."),
    "a tar": tar,
    "two pickles": lambda p: archive(p, {}, b"", ("archive/more/data.pkl", pickled(mark("second")))),
    "no pickle": lambda p: changed(b"data.pkl", b"data.abc", p),
    "TorchScript": lambda p: archive(p, {}, b"", ("archive/constants.pkl", b"")),
    "a compressed bomb": lambda p: archive(p, {}, b"", ("archive/data/1", bytes(10**7), zipfile.ZIP_DEFLATED)),
    "another compressed bomb": lambda p: archive(p, {}, b"", ("archive/data/1", bytes(10**6), zipfile.ZIP_LZMA)),
    "a path upwards": lambda p: archive(p, {}, b"", ("archive/../../x", b"")),
    "an absolute path": lambda p: archive(p, {}, b"", ("/etc/x", b"")),
    "a path on a drive": lambda p: archive(p, {}, b"", ("C:x", b"")),
    "a path of Windows": lambda p: archive(p, {}, b"", ("archive\\..\\x", b"")),
    "a name twice": twice,
    "an encrypted entry": lambda p: changed(
        DIRECTORY + b"\x14\x03\x14\x00\x00", DIRECTORY + b"\x14\x03\x14\x00\x01", p
    ),
    "one record under many names": overlapping,
    "a flipped bit": lambda p: changed(b"\x01" * 20, b"\x01" * 19 + b"\x03", p),
    "a cut archive": lambda p: p.write_bytes(archive(p, tensor()).read_bytes()[:-30]),
    "the beginning of an archive": lambda p: p.write_bytes(b"PK\x03\x04"),
    "an empty file": lambda p: p.write_bytes(b""),
    "zeros": lambda p: p.write_bytes(bytes(4096)),
    "a page": lambda p: p.write_bytes(b"\n <!DOCTYPE html><html>"),
    "a pointer": lambda p: p.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
    "gzip": lambda p: p.write_bytes(b"\x1f\x8b\x08" + bytes(40)),
}
# Broken rather than wicked, as far as can be told; the others are unsafe.
CORRUPT = {
    "below a mark",
    "a string as long as the file is not",
    "a number of two gigabytes",
    "an unknown memo",
    "a legacy storage left out",
    "a legacy storage twice",
    "legacy keys that explode",
    "a legacy storage of another length",
    "a cut legacy storage",
    "more behind a legacy storage",
    "two pickles",
    "a pickle of text",
    "a cut archive",
    "the beginning of an archive",
    "a flipped bit",
    "an empty file",
    "zeros",
    "a page",
    "a pointer",
    "gzip",
    "no pickle",
    "no end",
    "nothing",
}
