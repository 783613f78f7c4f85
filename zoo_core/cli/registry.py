"""``zoo list``, ``zoo show``, ``zoo plugins``: what is installed. None of them needs torch but ``show``."""

import dataclasses
from typing import Annotated, Any

import typer

from zoo_core.cli.output import AsJson, print_json, print_table
from zoo_core.hookspecs import KINDS
from zoo_core.host import Plugin, PluginHost, Registration, check_kind, default_host, plural


def add_to(app: typer.Typer) -> None:
    app.command("list")(list_components)
    app.command()(show)
    app.command()(plugins)


def complete_kind(start: str) -> list[str]:
    return [plural(kind) for kind in KINDS if plural(kind).startswith(start)]


def complete_name(start: str) -> list[str]:
    return [r.full_name for r in default_host().registrations() if r.full_name.startswith(start)]


def list_components(
    kind: Annotated[
        str | None, typer.Argument(help="encoders, models, checkpoints, …; default all", autocompletion=complete_kind)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List what the installed plugins offer.

    Examples: zoo list · zoo list models · zoo list checkpoints --json
    """
    kinds = [check_kind(kind)] if kind else list(KINDS)
    host = default_host()
    if as_json:
        print_json([_as_dict(r) for k in kinds for r in host.registrations(k)])
        return
    for k in kinds:
        rows = [(r.full_name, r.spec.summary) for r in host.registrations(k)]
        if rows or kind:
            print_table(plural(k) + ("" if rows else ": none"), ("", ""), rows)


def show(
    name: Annotated[str, typer.Argument(help="vae/vae, conv_encoder, vae-mnist, …", autocompletion=complete_name)],
    as_json: AsJson = False,
) -> None:
    """Show a component: what its spec says, and the arguments that a config may give it.

    Examples: zoo show conv_encoder · zoo show vae-mnist --json
    """
    host = default_host()
    registration = host.find(None, name)
    told = {**_as_dict(registration), "plugin": str(host.plugins[registration.plugin])}
    arguments = _arguments(registration, host)
    if as_json:
        print_json({**told, "arguments": arguments})
        return
    print_table("", ("", ""), [(key, value) for key, value in told.items() if value])
    if arguments:
        print_table("arguments", ("", "", ""), [(a["name"], a["admits"], a["default"]) for a in arguments])


def plugins(
    errors: Annotated[bool, typer.Option("--errors", help="Print the traceback of each plugin that failed.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the installed plugins, also the broken and the disabled ones.

    Examples: zoo plugins · zoo plugins --errors · ZOO_DISABLE=vae zoo plugins
    """
    found = list(PluginHost(strict=False).plugins.values())
    if as_json:
        print_json([_plugin_as_dict(plugin) for plugin in found])
        return
    rows = [(p.name, f"{p.distribution} {p.version}", p.state, p.error or f"{len(p.specs)} components") for p in found]
    print_table("", ("", "", "", ""), rows)
    for plugin in found if errors else ():
        if plugin.traceback:
            print(f"\n{plugin}\n{plugin.traceback.rstrip()}")


def _as_dict(registration: Registration) -> dict[str, Any]:
    spec = registration.spec
    return {"kind": spec.kind, **dataclasses.asdict(spec), "name": registration.full_name}


def _plugin_as_dict(plugin: Plugin) -> dict[str, Any]:
    names = [f"{plugin.name}/{spec.name}" for spec in plugin.specs]
    return {**{f: getattr(plugin, f) for f in ("name", "distribution", "version", "state", "error")}, "offers": names}


def _arguments(registration: Registration, host: PluginHost) -> list[dict[str, str]]:
    from zoo_core.arguments import Parameter, parameters, phrase
    from zoo_core.config import PROVIDED

    if registration.spec.kind == "checkpoint":
        return []

    def default(p: Parameter) -> str:
        if not p.required:
            return repr(p.default)
        return "told by the parts before it" if p.name in PROVIDED else "required"

    return [
        {"name": p.name, "admits": phrase(p.annotation), "default": default(p)}
        for p in parameters(host.load(registration)).values()
    ]
