"""Signatures of result files (C2PA): signed last, still readable, and broken by any change."""

import datetime
import json

import numpy as np
import pytest
from PIL import Image

from dianjing.demo.results import Labelling, ResultStore
from dianjing.demo.signing import make_signer
from dianjing.pipelines.media.image import read_image_metadata
from dianjing.pipelines.media.metadata import GenerationMetadata
from dianjing.pipelines.media.video import read_video_metadata

METADATA = GenerationMetadata(prompt="小猫", seed=3, settings={}, model="sticker", version="0")
GRAY = Image.new("RGB", (64, 64), (128, 128, 128))


@pytest.fixture
def make_store():
    """Make result stores, and remove their files after the test."""
    stores = []

    def make(**labelling):
        stores.append(ResultStore(Labelling(**labelling)))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """PEM files: a certificate chain of a small authority of our own, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    def certify(name, key, *, by, by_key, extensions):
        now = datetime.datetime.now(datetime.timezone.utc)
        subject, issuer = (x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, text)]) for text in (name, by))
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(1))
        builder = builder.not_valid_after(now + datetime.timedelta(30))
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(by_key, hashes.SHA256())

    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    usage = dict.fromkeys(
        [
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ],
        False,
    )
    authority = certify(
        "Authority",
        authority_key,
        by="Authority",
        by_key=authority_key,
        extensions=[
            (x509.BasicConstraints(ca=True, path_length=None), True),
            (x509.KeyUsage(digital_signature=False, key_cert_sign=True, **usage), True),
        ],
    )
    leaf = certify(
        "Producer",
        key,
        by="Authority",
        by_key=authority_key,
        extensions=[
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (x509.KeyUsage(digital_signature=True, key_cert_sign=False, **usage), True),
            (x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.EMAIL_PROTECTION]), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), False),
        ],
    )
    folder = tmp_path_factory.mktemp("pems")
    pem = serialization.Encoding.PEM
    (folder / "chain.pem").write_bytes(leaf.public_bytes(pem) + authority.public_bytes(pem))
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(secret)
    return folder / "chain.pem", folder / "key.pem"


def test_every_kind_of_file_is_signed_and_still_readable(make_store, certificate):
    import c2pa

    store = make_store(signer=make_signer(*certificate), has_visible_label=True)
    frames = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), np.uint8)
    paths = [*store.save_images("job", [GRAY], [METADATA]), *store.save_video("job", frames, METADATA, fps=4)]
    for path in paths:
        with c2pa.Reader(str(path)) as reader:
            report = json.loads(reader.json())
        manifest = report["manifests"][report["active_manifest"]]
        assert manifest["signature_info"]["issuer"] == "Producer"
        assert "trainedAlgorithmicMedia" in json.dumps(manifest["assertions"])
        codes = {status["code"] for status in report.get("validation_status", [])}
        assert codes <= {"signingCredential.untrusted"}  # the authority is not known; the content is as it was signed
    assert read_image_metadata(paths[0]) == METADATA
    for path in paths[1:]:
        metadata, label = read_video_metadata(path)
        assert (metadata, label["Label"]) == (METADATA, "1")


def test_a_change_after_signing_is_detected(make_store, certificate):
    import c2pa

    [path] = make_store(signer=make_signer(*certificate)).save_images("job", [GRAY], [METADATA])
    content = bytearray(path.read_bytes())
    content[-20] ^= 1  # in the pixels: a PNG ends with IDAT and twelve bytes of IEND
    path.write_bytes(content)
    with c2pa.Reader(str(path)) as reader:
        codes = {status["code"] for status in json.loads(reader.json())["validation_status"]}
    assert "assertion.dataHash.mismatch" in codes


def test_a_certificate_that_cannot_sign_is_refused(certificate, tmp_path):
    chain, key = certificate
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("no key")
    for pair in ((chain, wrong), (wrong, key), (chain, tmp_path / "none.pem")):
        with pytest.raises(ValueError, match="cannot sign"):
            make_signer(*pair)
