"""`hermes3 serve`: find the model, then hand over to the server."""

from __future__ import annotations

from hermes3.cli.models import located


def run(
    model: str | None,
    host: str,
    port: int,
    n_ctx: int | None,
    n_threads: int | None,
    served_model_name: str | None,
    api_key: list[str] | None,
    limit: list[str] | None,
) -> None:
    """Serve until Ctrl-C.

    Raises:
        Hermes3Error: a limit is wrong, there is no such model, or it cannot be fetched or loaded.
    """
    from hermes3.server.limits import Limits

    limits = Limits.of(limit or ())
    name, path = located(model)
    from hermes3.server import process

    process.serve(
        model=str(path),
        host=host,
        port=port,
        n_ctx=n_ctx,
        n_threads=n_threads,
        served_model_name=served_model_name or name,
        api_key=api_key,
        limits=limits,
    )
