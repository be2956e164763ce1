"""A certificate authority of the tests' own, and certificates for every way in which one can be wrong."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["Authority", "Pair"]


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as files."""

    cert: str
    key: str

    def contents(self) -> tuple[bytes, bytes]:
        """Key, then certificate: the order in which a server takes them."""
        return Path(self.key).read_bytes(), Path(self.cert).read_bytes()


class Authority:
    """Signs for whoever asks. Two of them do not know one another."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._issued = 0
        certificate = self._sign(name, self._key, days=1, ca=True)
        self.ca = str(directory / f"{name}.pem")
        Path(self.ca).write_bytes(certificate)

    def roots(self) -> bytes:
        return Path(self.ca).read_bytes()

    def issue(self, *names: str, days: int = 1) -> Pair:
        """A pair that bears these names; with negative `days` it expired so many days ago."""
        key = ec.generate_private_key(ec.SECP256R1())
        self._issued += 1
        stem = self._directory / f"{self._name}-{self._issued}"
        pair = Pair(f"{stem}.cert.pem", f"{stem}.key.pem")
        Path(pair.cert).write_bytes(self._sign(f"{self._name}-{self._issued}", key, days=days, names=names))
        Path(pair.key).write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return pair

    def _sign(
        self,
        subject: str,
        key: ec.EllipticCurvePrivateKey,
        *,
        days: int,
        ca: bool = False,
        names: tuple[str, ...] = (),
    ) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(subject))
            .issuer_name(_name(self._name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=10))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
        )
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_alternative(n) for n in names]), False
            )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
