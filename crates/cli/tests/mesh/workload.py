"""What Python programs see of Workload APIs, through the package `spiffe`.

workload.py ENDPOINT: one program asks for its certificate; prints its SPIFFE ID, or the status that it is refused with.
workload.py ENDPOINT ENDPOINT: two programs, of one trust domain or of two that know each other, verify each other; prints one JSON object with
their SPIFFE IDs. Anything that doesn't hold ends it with an exception.
"""

import json
import re
import socket
import ssl
import sys
import tempfile
import threading
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from spiffe import JwtSvid, WorkloadApiClient
from spiffe.workloadapi.errors import FetchX509SvidError


class Program:
    """A program on one node, with what it fetched."""

    def __init__(self, endpoint, directory):
        self.client = WorkloadApiClient(endpoint)
        context = self.client.fetch_x509_context()
        self.svid = context.default_svid
        self.domain = self.svid.spiffe_id.trust_domain
        self.bundles = context.x509_bundle_set
        alone = self.client.fetch_x509_bundles()
        for bundle in self.bundles.bundles:
            domain = bundle.trust_domain
            assert bundle.x509_authorities == (
                alone.get_bundle_for_trust_domain(domain).x509_authorities
            )
        pem = serialization.Encoding.PEM
        self.chain, self.key = directory / "chain.pem", directory / "key.pem"
        self.chain.write_bytes(b"".join(one.public_bytes(pem) for one in self.svid.cert_chain))
        no_password = serialization.NoEncryption()
        self.key.write_bytes(
            self.svid.private_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, no_password)
        )
        self.token = self.client.fetch_jwt_svid(audience={"reports"})
        self.keys = self.client.fetch_jwt_bundles()

    def roots(self, domain):
        """The authorities that this program knows of a trust domain, PEM."""
        pem = serialization.Encoding.PEM
        authorities = self.bundles.get_bundle_for_trust_domain(domain).x509_authorities
        return "".join(root.public_bytes(pem).decode() for root in authorities)

    def context(self, protocol, domain):
        context = ssl.SSLContext(protocol)
        # SPIFFE IDs name programs, not hosts.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_verify_locations(cadata=self.roots(domain))
        context.load_cert_chain(self.chain, self.key)
        return context


def names(connection):
    return [name for kind, name in connection.getpeercert()["subjectAltName"] if kind == "URI"]


def handshake(client, server):
    """Mutual TLS of OpenSSL; who each side saw."""
    ours, theirs = socket.socketpair()
    seen = {}

    def serve():
        with server.context(ssl.PROTOCOL_TLS_SERVER, client.domain).wrap_socket(theirs, server_side=True) as tls:
            seen["client"] = names(tls)
            tls.sendall(tls.recv(5))

    thread = threading.Thread(target=serve)
    thread.start()
    with client.context(ssl.PROTOCOL_TLS_CLIENT, server.domain).wrap_socket(ours) as tls:
        seen["server"] = names(tls)
        tls.sendall(b"hello")
        assert tls.recv(5) == b"hello"
    thread.join()
    return seen


def main(endpoints):
    with tempfile.TemporaryDirectory() as directory:
        programs = []
        for number, endpoint in enumerate(endpoints):
            own = Path(directory) / str(number)
            own.mkdir()
            programs.append(Program(endpoint, own))
        first, second = programs
        for program, other in ((first, second), (second, first)):
            # By the library with the other node's keys, and by the other node itself.
            keys = other.keys.get_bundle_for_trust_domain(program.domain)
            parsed = JwtSvid.parse_and_validate(program.token.token, keys, {"reports"})
            assert parsed.spiffe_id == program.svid.spiffe_id
            other.client.validate_jwt_svid(program.token.token, "reports")
            try:
                other.client.validate_jwt_svid(program.token.token, "payroll")
            except Exception as error:  # The package wraps them all.
                assert "audience" in str(error).lower(), error
            else:
                raise AssertionError("a token for another audience was taken")
        seen = handshake(first, second)
        ids = [str(program.svid.spiffe_id) for program in programs]
        assert seen == {"client": [ids[0]], "server": [ids[1]]}, seen
        print(json.dumps({"ids": ids, "domains": len(first.bundles.bundles)}))


def alone(endpoint):
    try:
        print(WorkloadApiClient(endpoint).fetch_x509_svid(timeout=20).spiffe_id)
    except FetchX509SvidError as error:
        print(re.search(r"StatusCode\.(\w+)", str(error)).group(1))


if len(sys.argv) == 2:
    alone(sys.argv[1])
else:
    main(sys.argv[1:])
