"""`trustq serve`: the page and the API of a packaged model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from trustq.core.prose import say

from .options import Quiet
from .output import print_note


@dataclass
class Network:
    """Where the server listens, and with which certificate."""

    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on; 0.0.0.0 for a network.")
    ] = "127.0.0.1"
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any free one.")
    ] = 8000
    hosts: Annotated[
        str,
        typer.Option(metavar="NAMES", help="Host names that it answers for [default: any]."),
    ] = ""
    certificate: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="TLS certificate; phones need one to work offline."),
    ] = None
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="Key of the certificate.")] = None


@dataclass
class Load:
    """What it serves, and how much at once."""

    variant: Annotated[
        str, typer.Option(metavar="float32|int8|float16", help="Network to serve.")
    ] = "float32"
    workers: Annotated[int, typer.Option(min=0, help="Predictions at once; 0 for one a core.")] = 0
    rate_limit: Annotated[
        float,
        typer.Option(min=0, help="Images that one address may send a minute; 0 for any number."),
    ] = 60.0
    web_runtime: Annotated[
        Path | None,
        typer.Option(metavar="DIR|FILE.tgz", help="npm's onnxruntime-web, to add to the model."),
    ] = None


KEPT_BYTES = 1 << 26  # of freed memory, so that each photo does not wait for new pages


def serve(
    network: Network,
    load: Load,
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Folder that trustq package wrote.")
    ] = Path("model"),
    quiet: Quiet = False,
) -> None:
    """Serve a page for phones and an API for programs; needs the serve extra and no torch.

    Where the model folder holds the browser's runtime, the model runs in the page, also without a
    network, and photos never leave the phone. The API: POST /api/analyze with an image as its body,
    GET /api/health, /openapi.json. Images have at most 10 MB and 4,000 pixels on a side; nothing of
    them is stored or logged. Research only, not a medical device.

    Example: trustq serve demo/model --port 8000
    """
    import signal

    from trustq.core.freed_memory import keep_freed_memory
    from trustq.deploy.extras import load_extra
    from trustq.deploy.server import ServeSettings, Service, listening, uvicorn_config
    from trustq.deploy.web_runtime import add_web_runtime, has_web_runtime

    if load.web_runtime is not None:
        print_note(add_web_runtime(model, load.web_runtime))
    keep_freed_memory(most_bytes=KEPT_BYTES)
    settings = ServeSettings(
        variant=load.variant,
        per_minute=load.rate_limit,
        workers=load.workers,
        hosts=tuple(name.strip() for name in network.hosts.split(",") if name.strip()),
    )
    service = Service(model, settings)
    config = uvicorn_config(
        service,
        certificate=network.certificate,
        key=network.key,
    )
    socket = listening(network.host, network.port)
    scheme = "http" if network.certificate is None else "https"
    if not has_web_runtime(model):
        print_note("Photos are sent to this server: the model folder has no runtime for browsers.")
    port = socket.getsockname()[1]
    host = f"[{network.host}]" if ":" in network.host else network.host
    say(f"{service.model.about['name']} at {scheme}://{host}:{port}/")
    if service.model.warning:
        print_note(service.model.warning)
    say("Research only, not a medical device. Stop with Ctrl-C.")
    server = load_extra("uvicorn", "trustq serve").Server(config)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    server.run(sockets=[socket])
    service.close()
