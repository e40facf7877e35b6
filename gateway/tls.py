"""TLS of our own: a certificate and its key from files, read anew when asked."""

from __future__ import annotations

import ssl
from pathlib import Path

import structlog

from ledger.errors import SettingsError

log = structlog.get_logger(__name__)


class Certificate:
    """What the server shows to its clients. Raises `SettingsError` with the cure, never showing the key."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self._load(self.context)

    def renew(self) -> None:
        """Read the files again, for who connects from now on; if they are bad, what was read before stays."""
        try:
            self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))  # half of a bad pair must not get into the one in use
            self._load(self.context)
        except SettingsError as error:
            log.error("certificate_not_renewed", detail=error.sentence)
        else:
            log.info("certificate_renewed", certificate=str(self._certificate))

    def _load(self, context: ssl.SSLContext) -> None:
        try:
            if self._key.stat().st_mode & 0o007:
                raise SettingsError(f"The TLS key {self._key} can be used by everybody; run: chmod 600 {self._key}")
            self._certificate.open("rb").close()  # OpenSSL does not say which of the two it cannot read
            context.load_cert_chain(self._certificate, self._key, password=_no_passphrase)
        except ssl.SSLError as error:
            raise SettingsError(
                f"{self._certificate} and {self._key} are no certificate and its key in PEM ({error.reason})."
            ) from None
        except OSError as error:
            raise SettingsError(f"The TLS file {error.filename} cannot be read: {error.strerror}.") from error


def _no_passphrase() -> str:
    raise SettingsError("The TLS key is locked with a passphrase; give one without, in a file that others cannot read.")


def trusting(certificate: Path) -> ssl.SSLContext:
    """For asking one's own server how it is: believe its certificate, whatever name it is for."""
    context = ssl.create_default_context(cafile=str(certificate))
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # it need not come from an authority
    context.check_hostname = False
    return context
