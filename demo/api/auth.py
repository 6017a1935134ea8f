"""Access control: bearer keys, the page's password, and the owner of a request."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.requests import Request

from dianjing.demo.errors import MissingKeyError


@dataclass(frozen=True, kw_only=True)
class AccessControl:
    """The credentials and origins that a server accepts.

    `keys`: bearer keys, each an owner. `auth`: user and password of the page, which are valid for the API too. Without
    both every client is accepted; its owner is the bearer token that it sends, or its address.
    `origins`: other sites whose pages may call the server, such as "https://draw.example.com". `hosts`: accepted names
    of the server; None: any.
    """

    keys: Sequence[str] = ()
    auth: tuple[str, str] | None = None
    origins: Sequence[str] = ()
    hosts: frozenset[str] | None = None

    def get_owner(self, request: Request) -> str:
        """A hash that identifies the owner of a request.

        Raises: MissingKeyError.
        """
        scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
        credentials = credentials.strip()
        if scheme.lower() == "bearer" and credentials and (self._is_key(credentials) or not self.requires_key):
            return _hash_identity("key", credentials)
        if scheme.lower() == "basic" and self.auth is not None and self._is_user(credentials):
            return _hash_identity("user", self.auth[0])
        if self.requires_key:
            raise MissingKeyError("api_key_missing")
        return _hash_identity("address", request.client.host if request.client else "")

    @property
    def requires_key(self) -> bool:
        return bool(self.keys) or self.auth is not None

    def _is_key(self, credentials: str) -> bool:
        matches = [hmac.compare_digest(credentials.encode(), key.encode()) for key in self.keys]
        return any(matches)  # all keys are compared, so that the duration does not depend on the match

    def _is_user(self, credentials: str) -> bool:
        assert self.auth is not None
        try:
            decoded = base64.b64decode(credentials, validate=True)
        except (binascii.Error, ValueError):
            return False
        return hmac.compare_digest(decoded, ":".join(self.auth).encode())


def _hash_identity(kind: str, value: str) -> str:
    return f"{kind} {hashlib.sha256(value.encode()).hexdigest()[:24]}"
