"""SSH signatures on records: who vouches for what was observed, checked without a network.

What is signed is the ``content`` digest of a record (``ssh-keygen -Y``, OpenSSH PROTOCOL.sshsig),
which covers the identity and every number; the allowed-signers file lives in git.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_falsify.errors import LedgerError
from pytest_falsify.ledger.evidence import Signature

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_falsify.ledger.block import Ledger
    from pytest_falsify.ledger.evidence import Evidence

NAMESPACE = "pytest-falsify"


def sign(evidence: Evidence, *, key: Path, signer: str) -> Evidence:
    """Return the record with a signature.

    Args:
        evidence: what to vouch for.
        key: the private SSH key, or the public one of a key that an agent holds.
        signer: the name that the allowed-signers file knows.

    Raises:
        LedgerError: when it cannot be signed.
    """
    command = ("sign", "-q", "-f", str(key), "-n", NAMESPACE)
    armour = _ssh_keygen(*command, given=evidence.content, failed="it could not be signed")
    return evidence.marked(signature=Signature(signer=signer, armour=armour))


def check_signature(evidence: Evidence, *, allowed_signers: Path) -> None:
    """Check the signature of a record.

    Raises:
        LedgerError: when it has none, or none by somebody who is allowed to sign.
    """
    signature = evidence.signature
    if signature is None:
        msg = f"evidence of {evidence.falsifier} on {evidence.target} is not signed"
        raise LedgerError(msg, expected=f"a signature by somebody in {allowed_signers}")
    with tempfile.TemporaryDirectory() as folder:
        armour = Path(folder) / "signature"
        armour.write_text(signature.armour, encoding="utf-8")
        who = ("-f", str(allowed_signers), "-I", signature.signer)
        command = ("verify", *who, "-n", NAMESPACE, "-s", str(armour))
        about = f"evidence of {evidence.falsifier} on {evidence.target}"
        failed = f"the signature of {signature.signer} on {about} does not hold"
        _ssh_keygen(*command, given=evidence.content, failed=failed)


def wrong_signatures(ledgers: Mapping[str, Ledger], allowed_signers: Path) -> Iterator[LedgerError]:
    """Yield what is wrong with the signatures in some ledgers; unsigned records are passed over."""
    for ledger in ledgers.values():
        for block in ledger.blocks.values():
            for each in block.evidence:
                if each.signature is not None:
                    try:
                        check_signature(each, allowed_signers=allowed_signers)
                    except LedgerError as error:
                        yield error


def _ssh_keygen(*arguments: str, given: str, failed: str) -> str:
    command = ["ssh-keygen", "-Y", *arguments]
    try:
        done = subprocess.run(  # noqa: S603 - the arguments are ours, and no shell is involved
            command, input=given, capture_output=True, check=True, text=True
        )
    except OSError as error:
        msg = f"ssh-keygen could not be run: {error}"
        raise LedgerError(msg, remedy="install OpenSSH") from error
    except subprocess.CalledProcessError as error:
        words = " ".join((error.stderr or error.stdout).split())
        msg = f"{failed}: {words}"
        raise LedgerError(msg, remedy="sign it with a key in the allowed-signers file") from None
    return done.stdout
