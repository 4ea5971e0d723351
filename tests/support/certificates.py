"""A CA of our own and what it has signed, made by OpenSSL as docs/tls.md says, and contexts for Python's module `ssl`.

For tests in other languages: `certificates.py FOLDER` makes them there, and prints as JSON the options of
`heartwire serve` and the key that Chromium is to trust.
"""

import contextlib
import functools
import json
import os
import pathlib
import shutil
import ssl
import subprocess
import sys
import tempfile

# What the server's certificate is for.
NAMES = "DNS:localhost,IP:127.0.0.1"

NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]


def missing():
    return None if shutil.which("openssl") else "openssl is not installed"


class Certificates:
    """The files of one CA: its certificate, and a server's with its key."""

    def __init__(self, folder):
        self.ca, self.ca_key = folder / "ca.pem", folder / "ca-key.pem"
        self.chain, self.key = folder / "chain.pem", folder / "key.pem"
        extensions = ["basicConstraints=critical,CA:TRUE,pathlen:0", "keyUsage=critical,keyCertSign,cRLSign"]
        make(self.ca, self.ca_key, "/CN=A CA for tests", extensions)
        extensions = [f"subjectAltName={NAMES}", "basicConstraints=critical,CA:FALSE", "extendedKeyUsage=serverAuth"]
        make(self.chain, self.key, "/CN=localhost", extensions, ["-CA", self.ca, "-CAkey", self.ca_key])

    @property
    def serve(self):
        """The options of `heartwire serve`."""
        return ["--tls-cert", str(self.chain), "--tls-key", str(self.key)]

    @property
    def trust(self):
        """The options of `heartwire connect`."""
        return ["--cacert", str(self.ca)]

    @property
    def client_environment(self):
        """The environment of a client of the tests. OpenSSL, rustls-native-certs and Node go by the first two of
        themselves. Chromium has a store of its own, and is told the key of the one server that it may trust."""
        return {
            "SSL_CERT_FILE": str(self.ca),
            "NODE_EXTRA_CA_CERTS": str(self.ca),
            "CHROMIUM_TRUSTS": self.spki(),
        }

    @property
    def server_environment(self):
        """The environment of a server of the tests."""
        return {"TLS_CERT": str(self.chain), "TLS_KEY": str(self.key)}

    def client_context(self):
        context = ssl.create_default_context(cafile=self.ca)
        context.set_alpn_protocols(["http/1.1"])
        return context

    def server_context(self):
        return server_context(self.chain, self.key)

    @functools.cache
    def spki(self):
        """The digest of the server's public key, as Chromium's --ignore-certificate-errors-spki-list wants it."""
        key = openssl("x509", "-in", self.chain, "-noout", "-pubkey")
        digest = openssl("dgst", "-sha256", "-binary", input=openssl("pkey", "-pubin", "-outform", "der", input=key))
        return openssl("base64", "-A", input=digest).decode()


@contextlib.contextmanager
def made():
    """New ones, as long as it lasts."""
    with tempfile.TemporaryDirectory(prefix="heartwire-certificates-") as folder:
        yield Certificates(pathlib.Path(folder))


def server_context(chain, key):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    context.set_alpn_protocols(["http/1.1"])
    return context


def server_context_of_environment():
    """For a server of the tests: `None` if it is to speak without TLS."""
    chain = os.environ.get("TLS_CERT")
    return server_context(chain, os.environ["TLS_KEY"]) if chain else None


def make(chain, key, subject, extensions, issuer=()):
    extensions = [word for extension in extensions for word in ("-addext", extension)]
    files = ["-keyout", key, "-out", chain]
    openssl("req", "-x509", *issuer, *NEW_KEY, *files, "-days", "30", "-subj", subject, *extensions)


def openssl(*words, input=b""):
    done = subprocess.run(["openssl", *map(str, words)], input=input, capture_output=True, timeout=60)
    if done.returncode != 0:
        raise RuntimeError(f"openssl {' '.join(map(str, words))}: {done.stderr.decode().strip()}")
    return done.stdout


if __name__ == "__main__":
    certificates = Certificates(pathlib.Path(sys.argv[1]))
    print(json.dumps({"serve": certificates.serve, "spki": certificates.spki()}))
