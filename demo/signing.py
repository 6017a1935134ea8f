"""C2PA: a signed statement in a file that AI made it, by whoever holds the certificate."""

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from dianjing import __version__
from dianjing.demo.results import FileSigner
from dianjing.pipelines.media.atomic import write_atomic

MIME_TYPES = {".png": "image/png", ".webp": "image/webp", ".gif": "image/gif", ".mp4": "video/mp4"}
DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
CURVE_ALGORITHMS = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
MANIFEST = {
    "claim_generator_info": [{"name": "Dianjing", "version": __version__}],
    "assertions": [
        {
            "label": "c2pa.actions",
            "data": {"actions": [{"action": "c2pa.created", "digitalSourceType": DIGITAL_SOURCE_TYPE}]},
        }
    ],
}


def make_signer(certificate: Path, key: Path) -> FileSigner:
    """What signs a file in place with a chain of certificates and its private key, both PEM; tried on a picture.

    Raises: ValueError for what cannot sign, or without c2pa-python.
    """
    try:
        import c2pa
    except ImportError:
        raise ValueError('signing needs c2pa-python; install it with pip install "dianjing[c2pa]"') from None
    try:
        chain, secret = (path.read_text(encoding="ascii") for path in (certificate, key))
        algorithm = c2pa.C2paSigningAlg[_get_signing_algorithm(secret)]
        info = c2pa.C2paSignerInfo(algorithm, chain.encode(), secret.encode(), None)  # None: no time stamp is fetched
        signer = c2pa.Signer.from_info(info)
        trial = io.BytesIO()
        Image.new("RGB", (16, 16)).save(trial, format="PNG")
        _sign(signer, trial.getvalue(), "image/png")
    except (OSError, ValueError, c2pa.C2paError) as error:
        raise ValueError(f"--c2pa-cert {certificate} with --c2pa-key {key} cannot sign: {error}") from None

    def sign(path: Path) -> None:
        signed = _sign(signer, path.read_bytes(), MIME_TYPES[path.suffix])
        write_atomic(path, lambda file: file.write(signed))

    return sign


def _sign(signer: Any, content: bytes, mime: str) -> bytes:
    import c2pa

    signed = io.BytesIO()
    c2pa.Builder(json.dumps(MANIFEST)).sign(signer, mime, io.BytesIO(content), signed)
    return signed.getvalue()


def _get_signing_algorithm(secret: str) -> str:
    """What C2PA calls the algorithm that a key is for. c2pa-python brings `cryptography`."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(secret.encode(), password=None)
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in CURVE_ALGORITHMS:
        return CURVE_ALGORITHMS[key.curve.name]
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ED25519"
    if isinstance(key, rsa.RSAPrivateKey):
        return "PS256"
    raise ValueError(f"a key of the kind {type(key).__name__}; give one of P-256, P-384, P-521, Ed25519 or RSA")
