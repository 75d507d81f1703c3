"""The coordinator's CA and its server's certificate (X.509, RFC 5280).

1. The CA: EC P-384, valid ten years, basicConstraints critical CA:TRUE with path length 0, keyUsage critical
   keyCertSign and cRLSign: it can sign servers, and no further CA.
2. The server: EC P-256, valid one year unless said otherwise, never longer than the CA; CA:FALSE, digitalSignature,
   serverAuth, and every name and address by which partners reach it as subjectAltName (the common name does not count,
   RFC 9525).
3. Both begin an hour before they are made, for clocks that are late.

Pure: keys and certificates in, keys and certificates out; the time is an argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import Final, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mmrec_model.errors import TrustError
from mmrec_model.federation_file import is_ip, require_valid

CA_DAYS: Final = 3650
SERVER_DAYS: Final = 365
WARNING_DAYS: Final = 30
"""A certificate that ends within so many days is warned of."""
_EARLY: Final = timedelta(hours=1)
_LONGEST_NAME: Final = 64
Key: TypeAlias = ec.EllipticCurvePrivateKey


def make_authority(name: str, now: datetime) -> tuple[Key, x509.Certificate]:
    """A CA for the federation `name`: its key and its self-signed certificate."""
    key = ec.generate_private_key(ec.SECP384R1())
    subject = _named(f"{name[: _LONGEST_NAME - 3]} CA")
    builder = _begun(subject, subject, key.public_key(), now - _EARLY, now + timedelta(days=CA_DAYS))
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    return key, builder.sign(key, hashes.SHA384())


def make_server_key() -> Key:
    """A new key for the server."""
    return ec.generate_private_key(ec.SECP256R1())


def certify_server(
    server: ec.EllipticCurvePublicKey,
    names: Sequence[str],
    authority: tuple[Key, x509.Certificate],
    now: datetime,
    *,
    days: int = SERVER_DAYS,
) -> x509.Certificate:
    """A certificate for the server.

    Args:
        server: its public key.
        names: host names and IP addresses, at least one.
        authority: key and certificate of the CA.
        now: the time.
        days: how long it is valid, unless the CA's certificate ends before.

    Raises:
        TrustError: the CA's certificate is not valid now, or is not of this key.
    """
    key, certificate = authority
    require_valid(certificate, now, whose="the CA's")
    if certificate.public_key() != key.public_key():
        raise TrustError("the CA's certificate is not that of its key", remedy="Restore both from one backup")
    end = min(now + timedelta(days=days), certificate.not_valid_after_utc)
    issuer_key = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_key)
    builder = _begun(_named(names[0][:_LONGEST_NAME]), certificate.subject, server, now - _EARLY, end)
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        .add_extension(issuer, critical=False)
    )
    return builder.sign(key, hashes.SHA384())


def names_of(certificate: x509.Certificate) -> list[str]:
    """The host names and addresses of a server's certificate."""
    alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(one.value) for one in alternatives]


def warnings_for(certificate: x509.Certificate, now: datetime, *, whose: str) -> list[str]:
    """What an operator must hear of a certificate's dates: nothing, or one sentence.

    Args:
        certificate: to look at.
        now: the time.
        whose: what to call it.
    """
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begin:
        return [f"{whose} certificate is not valid before {begin.isoformat()}: set this clock"]
    if now > end:
        return [f"{whose} certificate ended on {end.date()}: nobody can connect"]
    if is_due(certificate, now):
        return [f"{whose} certificate ends on {end.date()}, in {(end - now).days} days: renew it"]
    return []


def is_due(certificate: x509.Certificate, now: datetime) -> bool:
    """Whether a certificate has ended or ends within `WARNING_DAYS`."""
    return certificate.not_valid_after_utc - now < timedelta(days=WARNING_DAYS)


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, begin: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _named(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general(name: str) -> x509.GeneralName:
    return x509.IPAddress(ip_address(name)) if is_ip(name) else x509.DNSName(name)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
