"""Who may do what: the operator's key and the keys of single jobs."""

from __future__ import annotations

from starlette.requests import Request

from gateway.core.errors import GatewayError
from gateway.core.keys import bearer, hashed, job_key, recognised


class Access:
    """`secret` is the store's; `operator_hash` opens everything, and without one the operator's routes are shut."""

    def __init__(self, secret: bytes, operator_hash: bytes | None) -> None:
        self._secret = secret
        self._operator_hash = operator_hash

    def check(self, request: Request, job_id: str | None = None) -> None:
        """Raises GatewayError, 401, unless the request has the operator's key, or that of the job if one is named."""
        given = bearer(request.headers.get("Authorization"))
        opens = hashed(job_key(self._secret, job_id)) if job_id is not None else None
        if recognised(given, self._operator_hash, opens):
            return
        wanted = "the operator key" if job_id is None else "the job's jobKey or the operator key"
        shut = " No operator key is set here." if job_id is None and self._operator_hash is None else ""
        raise GatewayError(401, "unauthenticated", f"Send {wanted} as 'Authorization: Bearer …'.{shut}")


def unknown_job() -> GatewayError:
    return GatewayError(404, "jobNotFound", "Nobody knows this job: its id is wrong, or it ended too long ago.")
