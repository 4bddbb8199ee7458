"""Prints a line of a users file: python3 scram-verifier.py NAME < password

The file holds what PostgreSQL would keep of a password (SCRAM-SHA-256, RFC 5803), never the password. It is taken as
it comes, without SASLprep: keep to ASCII.
"""
import base64, hashlib, hmac, json, os, sys

ITERATIONS = 4096
password, salt = sys.stdin.readline().rstrip("\n").encode(), os.urandom(16)
if len(sys.argv) != 2 or not password:
    sys.exit(__doc__)
salted = hashlib.pbkdf2_hmac("sha256", password, salt, ITERATIONS)
stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
server_key = hmac.digest(salted, b"Server Key", "sha256")
salt, stored_key, server_key = (base64.b64encode(b).decode() for b in (salt, stored_key, server_key))
print(f'{json.dumps(sys.argv[1])} = "SCRAM-SHA-256${ITERATIONS}:{salt}${stored_key}:{server_key}"')
