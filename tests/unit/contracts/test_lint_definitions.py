import pytest

from pytest_falsify.contracts.lint.definitions import definitions
from pytest_falsify.contracts.lint.sources import Citation, cited


def unrun(suffix, source):
    found = definitions(suffix, source.encode())
    return {name: each.unrun for name, each in found.items()}


def test_python_functions_and_what_pytest_would_not_run():
    found = unrun(
        ".py",
        "import pytest\n"
        "def test_good(): assert x\n"
        "def test_hollow():\n    '''Later.'''\n    pass\n"
        "@pytest.mark.skip(reason='x')\ndef test_skipped(): assert x\n"
        "@pytest.fixture\ndef test_fixture(): return 1\n"
        "class TestSuite:\n    def test_in_suite(self): assert x\n"
        "class Other:\n    def test_outside(self): assert x\n"
        "if True:\n    async def test_conditional(): assert x\n"
        "LIMIT = 3\n",
    )
    assert {name for name, why in found.items() if not why} == {
        "test_good",
        "test_in_suite",
        "test_conditional",
    }
    assert found["test_hollow"] == "it is empty"
    assert found["test_skipped"] == "it is skipped"
    assert "LIMIT" in found


def test_rust_functions_in_modules_impls_and_macros():
    pytest.importorskip("tree_sitter_rust")
    found = unrun(
        ".rs",
        "#[test]\nfn runs() {}\n#[test]\n#[ignore]\nfn ignored() {}\npub fn plain<T>() {}\n"
        "impl X { pub fn method(&self) {} }\nmod m { #[tokio::test]\nasync fn awaits() {} }\n"
        "proptest! { #[test]\nfn property(a in 0..9) { } }\nstruct S; enum E {}\n"
        'macro_rules! mac { () => {} }\n// fn commented() {}\nconst TEXT: &str = "fn quoted() {}";',
    )
    assert {name for name, why in found.items() if not why} >= {"runs", "awaits", "property"}
    assert found["ignored"] == "it is ignored"
    assert found["plain"] == "it has no `#[test]`"
    assert {"method", "S", "E", "mac", "TEXT"} <= set(found)
    assert not {"commented", "quoted"} & set(found)


@pytest.mark.parametrize(
    ("suffix", "source", "names"),
    [
        (".cu", "__global__ void kernel(float* x) {}\nstatic int *ptr(void) { return 0; }",
         {"kernel", "ptr"}),
        (".cpp", "int N::member() {}\ntemplate <class T> void a(T);\nclass K {};\n#define M(x) x\n",
         {"member", "a", "K", "M"}),
        (".h", "int declared(int);\n", {"declared"}),
        (".c", "/* int no(void); */ int yes(void) { call(); return 0; }", {"yes"}),
    ],
)  # fmt: skip
def test_c_and_cuda_functions(suffix, source, names):
    pytest.importorskip("tree_sitter_cuda")
    assert names <= set(definitions(suffix, source.encode()))
    assert not {"no", "call"} & set(definitions(suffix, source.encode()))


def test_what_cannot_be_read_is_not_judged():
    assert definitions(".py", b"def (:") is None
    assert definitions(".f90", b"") is None


def test_deeply_nested_source_is_survived():
    pytest.importorskip("tree_sitter_rust")
    source = "fn a() { " + "{" * 3000 + "}" * 3000 + " }"
    assert "a" in definitions(".rs", source.encode())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("src/lib.rs::tests::holds", Citation(file="src/lib.rs", names=("holds",))),
        ("src/lib.rs", Citation(file="src/lib.rs")),
        ("a/b.cu (one_k + two_k)", Citation(file="a/b.cu", names=("one_k", "two_k"))),
        ("a.rs (eight sections, all of them)", Citation(file="a.rs")),
        ("realizar/src/mod.rs::parity_gate()", Citation(file="realizar/src/mod.rs",
                                                        names=("parity_gate",))),
        ("tests/t.py::TestA::test_b", Citation(file="tests/t.py", names=("test_b",))),
        ("evidence/x-2026/findings.json", Citation(file="evidence/x-2026/findings.json")),
        ("'test: name (8 sections)'", None),
        ("prose about lib.rs", None),
    ],
)  # fmt: skip
def test_citations_are_read_as_the_field_writes_them(text, expected):
    assert expected == cited(text)
