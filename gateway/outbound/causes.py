"""Why an exchange with upstream failed, in fixed words for logs.

aiohttp's own messages hold the URL, and a monitor URL is a credential; a proxy's URL may hold a password.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl

import aiohttp

from gateway.outbound.sessions import AddressRefused, AnswerTooLong

_CONNECTING = {
    errno.ECONNREFUSED: "refused",
    errno.ETIMEDOUT: "timed out",
    errno.EHOSTUNREACH: "no route to it",
    errno.ENETUNREACH: "no route to it",
    errno.ECONNRESET: "connection broke",
}
_NO_NAME = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
_NAMES_ITS_HOST = re.compile(r"^(Hostname|IP address) mismatch\b.*")
_REASON = re.compile(r"[A-Z0-9_]+")


def cause(error: BaseException) -> str:
    """The cause of a failure, without any URL, address or name."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the proxy answered {error.status}"
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return _of_certificate(error.certificate_error)
    if isinstance(error, aiohttp.ClientConnectorError):
        where = "the proxy: " if isinstance(error, aiohttp.ClientProxyConnectionError) else ""
        return where + _of_connecting(error.os_error)
    if isinstance(error, AnswerTooLong):
        return "too long"
    if isinstance(error, aiohttp.ClientResponseError | aiohttp.ClientPayloadError | aiohttp.InvalidURL):
        return "connection broke" if isinstance(error, aiohttp.ClientPayloadError) else "not HTTP"
    if isinstance(error, aiohttp.ClientConnectionError | OSError):
        return "connection broke"
    return "not HTTP"


def _of_certificate(error: BaseException) -> str:
    message = getattr(error, "verify_message", "") or "the certificate is not valid"
    return f"TLS: {_NAMES_ITS_HOST.sub(r'the certificate is for another name', message)}"


def _of_connecting(error: OSError) -> str:
    if isinstance(error, AddressRefused):
        return "address not public"
    if isinstance(error, socket.gaierror):
        return "no such name" if error.errno in _NO_NAME else "its name could not be looked up"
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        return f"TLS: {reason.lower().replace('_', ' ')}" if _REASON.fullmatch(reason) else "TLS: no secure connection"
    return _CONNECTING.get(error.errno or 0, "no connection")
