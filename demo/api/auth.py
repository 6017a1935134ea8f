"""Who is asking: the owner of a job, and whether they may."""

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
    """keys: bearer keys, each an owner of its own. auth: user and password of the page, which open the API too.

    Without either everyone may ask; the owner is then the bearer token that a client chose for itself, or its address.
    origins: other sites whose pages may ask, such as "https://draw.example.com". hosts: the names that the server is
    known by; None: any.
    """

    keys: Sequence[str] = ()
    auth: tuple[str, str] | None = None
    origins: Sequence[str] = ()
    hosts: frozenset[str] | None = None

    def get_owner(self, request: Request) -> str:
        """A name that tells owners apart and no key.

        Raises: NoKeyError.
        """
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        given = given.strip()
        if scheme.lower() == "bearer" and given and (self._is_key(given) or not self.requires_key):
            return _hash_identity("key", given)
        if scheme.lower() == "basic" and self.auth is not None and self._is_user(given):
            return _hash_identity("user", self.auth[0])
        if self.requires_key:
            raise MissingKeyError("this server wants a key; send the header Authorization: Bearer KEY")
        return _hash_identity("address", request.client.host if request.client else "")

    @property
    def requires_key(self) -> bool:
        return bool(self.keys) or self.auth is not None

    def _is_key(self, given: str) -> bool:
        found = [hmac.compare_digest(given.encode(), key.encode()) for key in self.keys]
        return any(found)  # every key is compared, so that the time tells nothing

    def _is_user(self, given: str) -> bool:
        assert self.auth is not None
        try:
            said = base64.b64decode(given, validate=True)
        except (binascii.Error, ValueError):
            return False
        return hmac.compare_digest(said, ":".join(self.auth).encode())


def _hash_identity(kind: str, value: str) -> str:
    return f"{kind} {hashlib.sha256(value.encode()).hexdigest()[:24]}"
