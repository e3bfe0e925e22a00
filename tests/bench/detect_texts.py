"""Texts for the detection bench: what methods may be tuned on, and what is kept from them.

A text belongs to one set for good. When a method was mended after a look at the held-out texts,
they have become texts to tune on, and the next report is made on ``fresh`` ones.
"""

from __future__ import annotations

import inspect
import pkgutil
from importlib import import_module

TUNING = """
    argparse inspect warnings collections.Counter builtins.dict builtins.str builtins.list
    builtins.int pathlib.Path numpy.einsum numpy.pad numpy.sum
"""
HELD_OUT = """
    textwrap.wrap difflib.SequenceMatcher heapq.merge bisect.bisect_left contextlib.ExitStack
    functools.lru_cache itertools.groupby json.dumps csv re.sub shutil.copytree
    tempfile.NamedTemporaryFile subprocess.run logging.basicConfig random.sample
    statistics.quantiles string.Template struct threading.Condition traceback.print_exception
    unittest.TestCase.assertRaises urllib.parse.urlsplit zipfile.ZipFile asyncio.gather
    dataclasses.dataclass decimal.Decimal.quantize enum.Flag email.message
    fractions.Fraction.limit_denominator glob.glob os.walk
"""
FRESH = """
    abc.abstractmethod ast.literal_eval base64.b32encode cmd.Cmd codecs.encode configparser
    copy.deepcopy cmath.isclose datetime.timedelta dis.dis doctest.testmod filecmp.dircmp
    fnmatch.filter getpass.getpass gzip.GzipFile hashlib.scrypt hmac.new html.escape http.client
    imaplib io.BufferedReader ipaddress.ip_network locale.atof mailbox.Maildir
    mimetypes.guess_type optparse pickle.Pickler platform.platform pprint.pprint queue.Queue
    sched shelve smtplib.SMTP socket.create_connection
"""
HELD_OUT_SENTENCES = (
    (
        "The ferry left the harbour at nine, an hour late, with half of its passengers still "
        "asleep and the other half arguing about the price of the tickets."
    ),
    (
        "To prove that the square root of two is irrational, suppose that it equals p / q in "
        "lowest terms; then p squared is twice q squared, so p is even, and so is q."
    ),
    (
        "def fibonacci(n):\n    a, b = 0, 1\n"
        "    while a < n:\n        yield a\n        a, b = b, a + b"
    ),
    (
        "La pluie tombait depuis trois jours; le boulanger ouvrit quand meme sa boutique, car"
        " le pain ne connait pas le temps."
    ),
    (
        "SELECT name, COUNT(*) FROM visits WHERE year = 2021 GROUP BY name HAVING COUNT(*) > "
        "3 ORDER BY 2 DESC LIMIT 10;"
    ),
    "0.1 0.22 0.333 0.4444 1e-5 6.02e23 3.14159 2.71828 1.41421 -17 42 0xff 1,000,000",
    "No no no no no no no no no no no no no no no no no no no no no no no no no no no no no.",
    (
        "Dear Sir, I have received your letter of the 3rd and regret to say that the violin "
        "cannot be mended before the concert; I enclose the bow, which needed only hair."
    ),
    '{"name": "probe", "ok": true, "items": [1, 2, 3], "nested": {"empty": {}, "none": null}}',
    "Water boils at a lower temperature on a mountain, because the air above it weighs less.",
)
FRESH_SENTENCES = (
    (
        "Three keys hung by the door: one for the cellar, one for the garden gate, and one "
        "that nobody had ever seen used."
    ),
    "if (x == NULL) { return -1; } for (size_t i = 0; i < n; ++i) { sum += x[i] * y[i]; }",
    "Die Uhr am Rathaus ging seit Wochen falsch, doch niemand im Dorf richtete sich nach ihr.",
    (
        "Mix flour, salt and yeast; add water; knead for ten minutes; let it rise until it "
        "has doubled."
    ),
    "| a | b | c |\n|---|---|---|\n| 1 | 2 | 3 |\n| 4 | 5 | 6 |\n| 7 | 8 | 9 |",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
    "The committee will meet on Thursday; members who cannot come may send their vote by post.",
    "Light that passes from air into glass is bent towards the normal, since it travels slower.",
)


DOCUMENTED = """
    argparse ast asyncio base64 bisect bz2 calendar cmath codecs collections concurrent.futures
    configparser contextlib copy csv ctypes dataclasses datetime decimal difflib dis email.message
    enum fileinput fractions ftplib functools gettext glob gzip hashlib heapq hmac html http.client
    importlib inspect io ipaddress itertools json linecache locale logging lzma math mimetypes
    multiprocessing numbers numpy numpy.fft numpy.linalg numpy.random operator os os.path pathlib
    pickle pkgutil platform plistlib poplib pprint profile queue random re sched secrets selectors
    shelve shlex shutil signal smtplib socket sqlite3 ssl stat statistics string struct subprocess
    tarfile tempfile textwrap threading timeit token tokenize traceback types typing unittest
    unittest.mock urllib.parse urllib.request uuid warnings wave weakref xml.dom.minidom
    xml.etree.ElementTree zipfile zlib
"""
MANY, SHORTEST = 420, 200


def independent() -> dict[str, str]:
    """Return a text for each of many pairs: what public functions say of themselves, each once."""
    used = {*TUNING.split(), *HELD_OUT.split(), *FRESH.split()}
    found: dict[str, str] = {}
    for module in DOCUMENTED.split():
        for name, member in sorted(vars(import_module(module)).items()):
            text = (callable(member) and inspect.getdoc(member)) or ""
            is_public = not name.startswith("_") and f"{module}.{name}" not in used
            if is_public and len(text) >= SHORTEST and text not in found.values():
                found[f"{module}.{name}"] = text
    names = list(found)
    return {name: found[name] for name in names[:: max(1, len(names) // MANY)][:MANY]}


def texts(which: str) -> dict[str, str]:
    """Return the texts of a set by name: ``tuning``, ``held-out``, ``fresh``, ``independent``."""
    if which == "independent":
        return independent()
    names, sentences = {
        "tuning": (TUNING, ()),
        "held-out": (HELD_OUT, HELD_OUT_SENTENCES),
        "fresh": (FRESH, FRESH_SENTENCES),
    }[which]
    documented = {name: inspect.getdoc(pkgutil.resolve_name(name)) or "" for name in names.split()}
    return {f"sentence {index}": each for index, each in enumerate(sentences)} | documented
