"""C2PA: a signed statement in a file that AI made it, by whoever holds the certificate."""

import json
from pathlib import Path

from dianjing.demo.files import Signer

MIME = {".png": "image/png", ".webp": "image/webp", ".mp4": "video/mp4"}  # C2PA knows no animated GIF of this kind
TRAINED_MEDIA = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
ALGORITHMS = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512", "ed25519": "ED25519", "rsa": "PS256"}
