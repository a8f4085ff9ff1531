"""``python -m wmlightning.ownership``: what an owner does with a key, apart from training and verifying."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from wmlightning.errors import UserError
from wmlightning.files import beside, named


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Returns:
        0, or 1 after a mistake of the user's, which is told in one line.
    """
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _commit(options: argparse.Namespace) -> None:
    from wmlightning.ownership.commitment import write_commitment
    from wmlightning.ownership.key import read_key

    path = options.out or beside(options.key, ".key", ".commitment.json")
    commitment = write_commitment(read_key(options.key), path)
    print(f"{commitment['sha256']}  made {commitment['made']}\n{path}: publish it, or have it time-stamped")


def _check(options: argparse.Namespace) -> None:
    from wmlightning.ownership.commitment import read_commitment
    from wmlightning.ownership.key import read_key

    key = read_key(options.key)
    if options.commitment is not None:
        read_commitment(options.commitment, key)
    key.check(options.data_dir, options.trust)
    print(f"every trigger follows from the secret; commitment {key.commitment()}")


def _stamp_request(options: argparse.Namespace) -> None:
    from wmlightning.ownership.timestamp import response_of, write_request

    request, response = write_request(options.commitment), response_of(options.commitment)
    print(f"{request}: send it to a time-stamping authority (RFC 3161), such as")
    sent = f"--data-binary '@{request}' --output '{response}' https://AUTHORITY.EXAMPLE/tsr"
    print(f"  curl --header 'Content-Type: application/timestamp-query' {sent}")


def _stamp_verify(options: argparse.Namespace) -> None:
    from wmlightning.files import write_bytes
    from wmlightning.ownership.timestamp import response_of, verified_time

    stamp = verified_time(options.commitment, options.response, options.ca)
    print(f"{options.commitment} existed at {stamp}")
    kept, response = response_of(options.commitment), options.response.read_bytes()
    if not kept.exists():
        write_bytes(kept, response)
    whole = "keep it beside the commitment" if kept.read_bytes() == response else "another response, which stays"
    print(f"{kept}: {whole}")


def _compare(options: argparse.Namespace) -> None:
    from wmlightning.ownership.timestamp import compare

    print(compare([options.first, options.second], options.ca or []))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m wmlightning.ownership", description="What to do with a key.")
    commands = parser.add_subparsers(dest="command", required=True)
    commit = commands.add_parser("commit", help="write the commitment to a key")
    commit.add_argument("key", type=named, help="the owner's key")
    commit.add_argument("--out", type=named, help="default: KEY with the ending .commitment.json")
    check = commands.add_parser("check", help="make all triggers anew from the secret and the data, and compare")
    check.add_argument("key", type=named, help="the owner's key")
    check.add_argument("--data-dir", type=named, default=os.environ.get("WML_DATA_DIR") or "data")
    check.add_argument("--commitment", type=named, help="a published commitment that must be to this key")
    check.add_argument("--trust", action="append", default=[], metavar="CLASS", help="a class of yours in its config")
    request = commands.add_parser("stamp-request", help="write a request for a trusted time stamp (RFC 3161)")
    request.add_argument("commitment", type=named, help="the file that commit wrote")
    verify = commands.add_parser("stamp-verify", help="check the response of a time-stamping authority")
    verify.add_argument("commitment", type=named, help="the file that commit wrote")
    verify.add_argument("response", type=named, help="what the authority sent")
    compare = commands.add_parser("compare", help="which of two commitments is older, as far as that is proven")
    compare.add_argument("first", type=named, help="a commitment; a time stamp is looked for beside it, as .tsr")
    compare.add_argument("second", type=named, help="another")
    for command in (verify, compare):
        needed = command is verify
        what = "PEM file with a root certificate that is trusted; may be repeated"
        command.add_argument("--ca", type=named, action="append", required=needed, default=None, help=what)
    runs = (commit, _commit), (check, _check), (request, _stamp_request), (verify, _stamp_verify), (compare, _compare)
    for command, run in runs:
        command.set_defaults(run=run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
