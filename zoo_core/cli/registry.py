"""``zoo list``, ``zoo show``, ``zoo plugins``: what is installed, and on the Hub. None needs torch but ``show``."""

import dataclasses
from typing import Annotated, Any

import typer

from zoo_core.cli.output import AsJson, print_json, print_table
from zoo_core.errors import ConfigError
from zoo_core.hookspecs import KINDS
from zoo_core.host import KNOWN_PLUGINS, Plugin, PluginHost, Registration, check_kind, default_host, plural


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
    hub: Annotated[bool, typer.Option("--hub", help="Models on the Hub, and the plugins that each needs.")] = False,
    author: Annotated[str | None, typer.Option(help="With --hub: a user's or an organisation's.")] = None,
    search: Annotated[str | None, typer.Option(help="With --hub: words in the name.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="With --hub: how many at most; default 50.")] = None,
    as_json: AsJson = False,
) -> None:
    """List what the installed plugins offer, or the zoo's models on the Hub.

    Examples: zoo list · zoo list models · zoo list checkpoints --json · zoo list --hub --search mnist
    """
    if hub:
        if kind:
            raise ConfigError(f"--hub lists models; leave out {kind!r}")
        _list_hub(author, search, limit or 50, as_json)
        return
    for option, value in {"--author": author, "--search": search, "--limit": limit}.items():
        if value is not None:
            raise ConfigError(f"{option} is for the Hub; add --hub")
    kinds = [check_kind(kind)] if kind else list(KINDS)
    host = default_host()
    if as_json:
        print_json([_as_dict(r) for k in kinds for r in host.registrations(k)])
        return
    for k in kinds:
        rows = [(r.full_name, r.spec.summary) for r in host.registrations(k)]
        if rows or kind:
            print_table(plural(k) + ("" if rows else ": none"), ("", ""), rows)


def _list_hub(author: str | None, search: str | None, limit: int, as_json: bool) -> None:
    from zoo_core.hub.listing import models_on_hub

    found = models_on_hub(author=author, search=search, limit=limit)
    states = {name: _state(name) for model in found for name in model.plugins}
    if as_json:
        needs = ({name: states[name] for name in model.plugins} for model in found)
        print_json([{**dataclasses.asdict(m), "plugins": need} for m, need in zip(found, needs, strict=True)])
        return
    rows = [
        (m.id, ", ".join(f"zoo-{name} {states[name]}" for name in m.plugins), f"{m.downloads:,}", m.changed[:10])
        for m in found
    ]
    print_table("" if rows else "none", ("model", "needs", "downloads", "changed"), rows)
    missing = [f"zoo-{name}" for name, state in states.items() if state == "missing" and name in KNOWN_PLUGINS]
    if missing:
        print(f"pip install {' '.join(sorted(missing))}")


def _state(name: str) -> str:
    plugin = default_host().plugins.get(name)
    if plugin is None:
        return "missing"
    return "installed" if plugin.state == "active" else plugin.state


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
