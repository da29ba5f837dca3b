"""What no line of the package does, by its syntax: run or unpickle what it was given, unpack archives, hide errors."""

import ast
import textwrap

import pytest

from tests.conftest import ROOT

# (file, rule): the one exception, a configuration file, which is a program and is run as one (SECURITY.md).
ALLOWED = {("resflax/config/files.py", "exec_module")}

CALLS = {
    "eval": "builtin",
    "exec": "builtin",
    "compile": "builtin",
    "__import__": "builtin",
    "exec_module": "method",
    "extractall": "method",
    "extract": "method",
    "unpack_archive": "method",
    "system": "os",
    "popen": "os",
}
# Of these modules nothing is called that reads.
READERS = {
    "pickle": {"load", "loads", "Unpickler"},
    "marshal": {"load", "loads"},
    "shelve": {"open"},
    "torch": {"load"},
    "joblib": {"load"},
    "dill": {"load", "loads"},
    "yaml": {"load", "load_all", "full_load", "unsafe_load"},
    "msgpack": {"unpackb", "unpack"},
    "flax.serialization": {"from_bytes", "msgpack_restore"},
}


def offences(source):
    """`[(line, rule), ...]`"""
    tree = ast.parse(source)
    modules = {}  # what a name in this file stands for
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.asname or alias.name.partition(".")[0]: alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            modules |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append((node.lineno, "bare except"))
        if isinstance(node, ast.ExceptHandler) and all(isinstance(one, (ast.Pass, ast.Continue)) for one in node.body):
            broad = isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")
            found += [(node.lineno, "errors without a word")] if broad else []
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        first, _, rest = name.partition(".")
        full = f"{modules.get(first, first)}{'.' if rest else ''}{rest}"
        module, _, last = full.rpartition(".")
        if last in READERS.get(module, ()):
            found.append((node.lineno, full))
        kind = CALLS.get(last)
        if (kind == "builtin" and not module) or (kind == "method" and module) or (kind == "os" and module == "os"):
            found.append((node.lineno, last))
        for keyword in node.keywords:
            value = getattr(keyword.value, "value", None)
            if (keyword.arg, value) in (("shell", True), ("allow_pickle", True), ("weights_only", False)):
                found.append((node.lineno, f"{keyword.arg}={value}"))
        if full == "numpy.load" and not any(keyword.arg == "allow_pickle" for keyword in node.keywords):
            found.append((node.lineno, "numpy.load without allow_pickle=False"))
    return found


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ("import pickle\npickle.load(f)", "pickle.load"),
        ("import pickle as p\np.loads(b)", "pickle.loads"),
        ("from pickle import loads as read\nread(b)", "pickle.loads"),
        ("from pickle import Unpickler\nUnpickler(f).load()", "pickle.Unpickler"),
        ("def f():\n import torch\n return torch.load(p)", "torch.load"),
        ("import yaml\nyaml.load(f)", "yaml.load"),
        ("from flax import serialization\nserialization.from_bytes(t, b)", "flax.serialization.from_bytes"),
        ("eval('1')", "eval"),
        ("exec('1')", "exec"),
        ("spec.loader.exec_module(m)", "exec_module"),
        ("tarfile.open(p).extractall(d)", "extractall"),
        ("import shutil\nshutil.unpack_archive(p)", "unpack_archive"),
        ("import os\nos.system('ls')", "system"),
        ("import subprocess\nsubprocess.run('ls', shell=True)", "shell=True"),
        ("import numpy as np\nnp.load(p, allow_pickle=True)", "allow_pickle=True"),
        ("import numpy as np\nnp.load(p)", "numpy.load without allow_pickle=False"),
        ("try:\n f()\nexcept:\n raise", "bare except"),
        ("try:\n f()\nexcept Exception:\n pass", "errors without a word"),
    ],
)
def test_the_rules_see_what_they_forbid(source, rule):
    assert [one for _, one in offences(source)] == [rule]


def test_the_rules_let_the_rest_pass():
    source = """
        import re, json, subprocess, numpy as np, jax, pickletools
        re.compile("a"); json.loads("1"); jax.jit(f).lower(x).compile(); np.load(p, allow_pickle=False)
        subprocess.run(["ls"]); pickletools.genops(s); function.eval(x)
        try:
            f()
        except OSError:
            pass
    """
    assert offences(textwrap.dedent(source)) == []


def test_the_package_keeps_them():
    found = {
        (path.relative_to(ROOT).as_posix(), rule, line)
        for path in (ROOT / "resflax").rglob("*.py")
        for line, rule in offences(path.read_text())
    }
    assert sorted(one for one in found if one[:2] not in ALLOWED) == []
    assert {one[:2] for one in found} == ALLOWED  # an exception that is not needed any more goes


def test_nothing_unpacks_archives():
    """Downloads are unpacked by tfds; what is ours opens no tar, and of a zip reads single members, by name, into memory."""
    for path in (ROOT / "resflax").rglob("*.py"):
        text = path.read_text()
        assert "import tarfile" not in text, path
        if "import zipfile" in text:
            assert path.name in ("npz.py", "torch_reader.py", "keras_reader.py"), path
