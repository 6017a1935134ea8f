"""Access control: bearer keys, the page's password, and the owner of a request."""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.requests import Request

from dianjing.demo.errors import MissingKeyError

OWN_USER = "dianjing"


@dataclass(frozen=True, kw_only=True)
class AccessControl:
    """The credentials and origins that a server accepts.

    `keys`: bearer keys, each an owner. `auth`: user and password of the page, which are valid for the API too. Either
    closes page, API and MCP to all others. Without both every client is accepted; its owner is the bearer token that it
    sends, or its address.
    `origins`: other sites whose pages may call the server, such as "https://draw.example.com". `hosts`: accepted names
    of the server; None: any. `own_password`: with it the server calls itself, on behalf of an agent that it has let in.
    """

    keys: Sequence[str] = ()
    auth: tuple[str, str] | None = None
    origins: Sequence[str] = ()
    hosts: frozenset[str] | None = None
    own_password: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    def get_owner(self, request: Request) -> str:
        """A hash that identifies the owner of a request.

        Raises: MissingKeyError.
        """
        scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
        credentials = credentials.strip()
        if scheme.lower() == "bearer" and credentials and (self._is_key(credentials) or not self.requires_key):
            return _hash_identity("key", credentials)
        if scheme.lower() == "basic":
            user, password = _decode_basic(credentials)
            if self.auth is not None and self._is_user(user, password):
                return _hash_identity("user", self.auth[0])
            if user == OWN_USER and hmac.compare_digest(password.encode(), self.own_password.encode()):
                return _hash_identity("user", OWN_USER)
        if self.requires_key:
            raise MissingKeyError("api_key_missing")
        return _hash_identity("address", request.client.host if request.client else "")

    @property
    def requires_key(self) -> bool:
        return bool(self.keys) or self.auth is not None

    def is_login(self, user: str, password: str) -> bool:
        """True for the page's user and password, and for a key in place of the password."""
        return self._is_key(password) or (self.auth is not None and self._is_user(user.strip(), password))

    def add_own_credentials(self, address: str) -> str:
        """Insert user and password into the server's address, as HTTP clients take them."""
        scheme, _, rest = address.partition("://")
        return f"{scheme}://{OWN_USER}:{self.own_password}@{rest}" if self.requires_key else address

    def _is_key(self, credentials: str) -> bool:
        matches = [hmac.compare_digest(credentials.encode(), key.encode()) for key in self.keys]
        return any(matches)  # all keys are compared, so that the duration does not depend on the match

    def _is_user(self, user: str, password: str) -> bool:
        assert self.auth is not None
        return hmac.compare_digest(f"{user}:{password}".encode(), ":".join(self.auth).encode())


def _decode_basic(credentials: str) -> tuple[str, str]:
    """User and password of a Basic header; empty for a malformed one."""
    try:
        decoded = base64.b64decode(credentials, validate=True).decode()
    except (binascii.Error, ValueError):
        return "", ""
    user, _, password = decoded.partition(":")
    return user, password


def _hash_identity(kind: str, value: str) -> str:
    return f"{kind} {hashlib.sha256(value.encode()).hexdigest()[:24]}"
