"""Files carry what made them and who says so; uploads are checked before anything decodes them."""

import datetime
import json

import numpy as np
import pytest
from PIL import Image

from dianjing.demo.results import Labelling, ResultStore
from dianjing.demo.signing import make_signer
from dianjing.pipelines.media.image import read_image_metadata
from dianjing.pipelines.media.metadata import GenerationMetadata
from dianjing.pipelines.media.video import read_video, read_video_metadata

RECORD = GenerationMetadata(prompt="小猫", seed=3, settings={}, model="sticker", version="0")
grey = Image.new("RGB", (64, 64), (128, 128, 128))


@pytest.fixture
def make_files():
    made = []

    def make(**marks):
        made.append(ResultStore(Labelling(**marks)))
        return made[-1]

    yield make
    for files in made:
        files.close()


@pytest.fixture(scope="module")
def pems(tmp_path_factory):
    """A certificate of a small authority of our own, and its key."""
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


def test_the_visible_label_is_in_the_corner_and_large_enough(make_files):
    [path] = make_files(has_visible_label=True).save_images("job", [grey.resize((200, 300))], [RECORD])
    with Image.open(path) as image:
        changed = np.argwhere((np.asarray(image.convert("RGB")) != 128).any(-1))
    rows, columns = changed.max(0) - changed.min(0) + 1
    assert rows >= 0.05 * 200
    assert columns > rows
    assert tuple(changed.max(0)) == (299, 199)
    assert columns < 100
    assert read_image_metadata(path) == RECORD


def test_without_the_switch_the_picture_is_as_drawn(make_files):
    [path] = make_files().save_images("job", [grey], [RECORD])
    with Image.open(path) as image:
        assert image.getcolors() == [(64 * 64, (128, 128, 128))]


def test_a_film_shows_its_label_for_two_seconds_and_then_no_more(make_files):
    frames = np.full((20, 64, 64, 3), 128, np.uint8)
    paths = make_files(has_visible_label=True).save_video("job", frames, RECORD, fps=8)
    shown = read_video(paths[0]).frames.astype(int)
    is_labelled = np.abs(shown - 128).max(axis=(1, 2, 3)) > 60
    assert is_labelled.tolist() == [True] * 16 + [False] * 4


def test_the_folder_of_results_is_for_nobody_else(make_files):
    files = make_files()
    assert files.root.stat().st_mode & 0o077 == 0


def test_every_kind_of_file_is_signed_last_and_still_readable(make_files, pems):
    import c2pa

    files = make_files(signer=make_signer(*pems), has_visible_label=True)
    frames = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), np.uint8)
    paths = [*files.save_images("job", [grey], [RECORD]), *files.save_video("job", frames, RECORD, fps=4)]
    for path in paths:
        with c2pa.Reader(str(path)) as reader:
            said = json.loads(reader.json())
        manifest = said["manifests"][said["active_manifest"]]
        assert manifest["signature_info"]["issuer"] == "Producer"
        assert "trainedAlgorithmicMedia" in json.dumps(manifest["assertions"])
        codes = {status["code"] for status in said.get("validation_status", [])}
        assert codes <= {"signingCredential.untrusted"}  # nobody knows our authority; the content is as it was signed
    assert read_image_metadata(paths[0]) == RECORD
    for path in paths[1:]:
        record, label = read_video_metadata(path)
        assert (record, label["Label"]) == (RECORD, "1")


def test_a_signed_picture_that_was_changed_is_found(make_files, pems):
    import c2pa

    [path] = make_files(signer=make_signer(*pems)).save_images("job", [grey], [RECORD])
    content = bytearray(path.read_bytes())
    content[-20] ^= 1  # in the pixels: the end of PNG is IDAT and twelve bytes of IEND
    path.write_bytes(content)
    with c2pa.Reader(str(path)) as reader:
        codes = {status["code"] for status in json.loads(reader.json())["validation_status"]}
    assert "assertion.dataHash.mismatch" in codes


def test_a_certificate_that_cannot_sign_is_refused_before_anything_is_drawn(pems, tmp_path):
    chain, key = pems
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("no key")
    for pair in ((chain, wrong), (wrong, key), (chain, tmp_path / "none.pem")):
        with pytest.raises(ValueError, match="cannot sign"):
            make_signer(*pair)
