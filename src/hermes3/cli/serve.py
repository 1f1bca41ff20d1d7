"""`hermes3 serve`: settings and model, then over to the server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hermes3.cli.models import located


def run(flags: Mapping[str, Any], limit: list[str], config: Path | None, print_config: bool) -> None:
    """Serve until Ctrl-C, or print the settings.

    Args:
        flags: what was given by flag.
        limit: bounds as NAME=VALUE; they go before those of other sources.

    Raises:
        Hermes3Error: a setting is wrong, there is no such model, or it cannot be fetched or loaded.
    """
    from hermes3.server.limits import Limits
    from hermes3.server.settings import as_toml, load

    Limits.of(limit)
    bounds = dict(each.split("=", 1) for each in limit)
    settings = load({**flags, "limits": bounds} if bounds else flags, config)
    if print_config:
        print(as_toml(settings), end="")
        return
    name, path = located(settings.model)
    from hermes3.server import process

    process.serve(
        str(path),
        settings.model_copy(update={"served_model_name": settings.served_model_name or name}),
    )
