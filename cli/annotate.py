"""``medsam-adapt annotate``: label scans in the browser with model-suggested masks."""

from __future__ import annotations

import importlib.util
import os
import secrets
import socket
import stat
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.interrupts import stopped_by_signals
from medsam_adapt.core.output_folder import check_output
from medsam_adapt.core.text import counted

from .console import say, warn
from .options import Device, Series

_LOCAL = ("127.0.0.1", "localhost", "::1")
_NETWORK = "Access from other machines"
_SHORTEST_TOKEN = 24  # characters
_EXTRA = ("fastapi", "uvicorn", "python_multipart")


def annotate(
    folder: Annotated[
        Path, typer.Argument(help="Folder of scans, or a data set with or without labels, or a datalist's JSON file.")
    ],
    classes: Annotated[
        str | None, typer.Option(help="Structures, as in liver,spleen; added to those that the folder names.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Folder of a run, or a name from 'weights list'.", show_default="lite_medsam, else sam_nano"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the labels.", show_default="FOLDER_annotated")
    ] = None,
    layout: Annotated[str, typer.Option(help="Layout of FOLDER on disk; recognised when not given.")] = "auto",
    series: Series = None,
    person: Annotated[str, typer.Option(help="Name of the person who draws, stored with the labels.")] = "person",
    device: Device = "auto",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
    host: Annotated[
        str,
        typer.Option(help="Address to listen on; others than 127.0.0.1 need --token-file.", rich_help_panel=_NETWORK),
    ] = "127.0.0.1",
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with the token, made if it does not exist.", rich_help_panel=_NETWORK),
    ] = None,
    public_address: Annotated[
        str | None,
        typer.Option(help="Address of a reverse proxy, as in https://annotate.example.org.", rich_help_panel=_NETWORK),
    ] = None,
) -> None:
    """Label scans in the browser: boxes, points, brush, and a model's proposals from slice to slice.

    The server answers this machine only, unless --host is given, and only requests with the token of the printed
    address. Labels are saved while you draw, in a folder that 'train --data' takes.
    """
    if missing := [name for name in _EXTRA if importlib.util.find_spec(name) is None]:
        raise InputError(f"annotate: it needs {', '.join(missing)}. Run pip install 'medsam-adapt[annotate]'.")
    if host not in _LOCAL and token_file is None:
        raise InputError(f"--host {host}: other machines could reach the scans. Add --token-file, or leave out --host.")
    if public_address is not None and not public_address.startswith(("https://", "http://")):
        raise InputError(f"--public-address {public_address}: it has no protocol. Begin it with https://.")

    from medsam_adapt.annotation.opening import open_session
    from medsam_adapt.annotation.proposals import load_proposals
    from medsam_adapt.annotation.proposing_models import check_images, known_classes, known_images

    names = [name for name in (classes or "").split(",") if name.strip()]
    session = open_session(
        folder, names, output, series, person, known_classes(model), known_images(model), layout, say
    )
    check_output(session.output, overwrite=True)
    token = secrets.token_urlsafe(32) if token_file is None else read_token(token_file)
    listening = listen(host, port)
    proposals = load_proposals(model, list(session.classes.values()), device)
    if proposals.automatic is not None:
        check_images(proposals.automatic, session.images)

    import uvicorn

    from medsam_adapt.annotation.access import addresses_of
    from medsam_adapt.annotation.application import create_full_app
    from medsam_adapt.annotation.rounds import Rounds
    from medsam_adapt.annotation.token_path import PREFIX
    from medsam_adapt.inference.zero_shot import names_weights

    port = listening.getsockname()[1]
    rounds = Rounds(session, proposals, None if model is None or names_weights(model) else Path(model), device)
    app = create_full_app(session, token, proposals, rounds, *addresses_of(host, port, public_address))
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    session.start()
    try:
        if (run := rounds.use_latest()) is not None:
            say(f"{run} proposes labels of whole scans.")
        say(f"{counted(len(session.scans), 'scan')}, classes {', '.join(session.classes.values())}.")
        say(f"Labels are saved in {session.output}.")
        if host not in _LOCAL:
            warn(f"{address} is reachable from other machines, unencrypted: put a reverse proxy with TLS before it.")
        secret = f"?token={token}" if token_file is None else f"?token=…, with the token of {token_file}"
        say(f"Open {address if public_address is None else public_address.rstrip('/') + '/'}{secret}")
        viewers = f"{(public_address or address).rstrip('/')}{PREFIX}/{'TOKEN' if token_file else token}"
        say(f"Server address for 3D Slicer's MONAI Label module: {viewers}")
        say("Ctrl+C ends the server.")
        if browser:
            webbrowser.open(f"{address}?token={token}")
        config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, proxy_headers=False)
        with stopped_by_signals():  # uvicorn ends in order and then raises the signal again
            uvicorn.Server(config).run(sockets=[listening])
    finally:
        rounds.stop()
        proposals.close()
        session.close()
    say(f"All labels are saved in {session.output}.")


def read_token(path: Path) -> str:
    """The token in a file, which is made if it does not exist, readable to its owner alone.

    Raises:
        InputError: a file that others can read, or a token that is too short.
    """
    try:
        if not path.exists():
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
                file.write(secrets.token_urlsafe(32) + "\n")
        mode = path.stat().st_mode
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        raise InputError(f"--token-file {path}: it cannot be read or made ({error}). Name another file.") from error
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise InputError(f"--token-file {path}: other users can read it. Run chmod 600 {path}.")
    if len(token) < _SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise InputError(
            f"--token-file {path}: a token has at least {_SHORTEST_TOKEN} ASCII characters and no space. Remove the "
            "file, and one with a random token is made."
        )
    return token


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on an address.

    Raises:
        InputError: an address that is not this machine's, or a port that is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.socket(family, socket.SOCK_STREAM)
        if os.name == "posix":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen()  # requests that come before the server has started wait for it
    except OSError as error:
        raise InputError(f"--host {host} --port {port}: {error.strerror}. Choose another one, or --port 0.") from error
    return listening
