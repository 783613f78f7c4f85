"""``build`` and ``describe`` over everything registered, and what they say of configs that are wrong."""

import copy
import json
import pickle
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from tests.registered import DATA, by_name, outputs, registrations, shapes, small, variants
from zoo_core import (
    Batch,
    ConfigError,
    Encoder,
    EncoderSpec,
    Loss,
    LossOutput,
    LossSpec,
    PluginHost,
    Prior,
    PriorSpec,
    Shape,
    UnknownComponent,
    build,
    check,
    default_host,
    describe,
    hookimpl,
)
from zoo_core.host import Registration

every_component = pytest.mark.parametrize("registration", registrations(), ids=by_name)

VAE = {
    "type": "vae/vae",
    "encoder": {"type": "nets/mlp_encoder", "latents": 2, "hidden": [4]},
    "decoder": {"type": "nets/mlp_decoder", "hidden": [4]},
    "prior": "nets/standard_normal",
}


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def vae(**changes: Any) -> dict[str, Any]:
    return {**VAE, **changes}


def same(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    return len(a) == len(b) > 0 and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# describe is the inverse of build


@every_component
def test_a_description_builds_the_same_component(registration: Registration) -> None:
    given = shapes(registration)
    for config in variants(registration):
        component = build(config, registration.spec.kind, **given)
        described = json.loads(json.dumps(describe(component, **given)))
        twin = build(described, **given)
        assert type(twin) is type(component)
        assert describe(twin, **given) == described
        twin.load_state_dict(component.state_dict())
        assert same(outputs(twin), outputs(component)), config


@every_component
def test_a_description_repeats_its_config(registration: Registration) -> None:
    """Every argument in ``small`` is set, so nothing may be added, left out or changed."""
    given = shapes(registration)
    for config in variants(registration):
        assert describe(build(config, **given), **given) == config


@every_component
def test_a_description_without_shapes_needs_none(registration: Registration) -> None:
    component = build(small(registration), **shapes(registration))
    twin = build(json.loads(json.dumps(describe(component))))
    twin.load_state_dict(component.state_dict())
    assert same(outputs(twin), outputs(component))


def enough(registration: Registration) -> bool:
    """Whether a component's name is all that it needs."""
    try:
        check(registration.full_name)
    except ConfigError:
        return False
    return True


@pytest.mark.parametrize("registration", list(filter(enough, registrations())), ids=by_name)
def test_a_component_without_required_arguments_is_its_name(registration: Registration) -> None:
    given = shapes(registration)
    by_itself = build(registration.full_name, **given)
    assert describe(by_itself) == describe(build({"type": registration.full_name}, **given))


def test_names_stand_for_parts_without_arguments() -> None:
    brief = vae(prior="standard_normal", encoder={"type": "mlp_encoder", "latents": 2, "posterior": "dirac"})
    long = vae(
        prior={"type": "nets/standard_normal"},
        encoder={"type": "nets/mlp_encoder", "latents": 2, "posterior": {"type": "nets/dirac"}},
    )
    assert describe(build(brief, data_shape=DATA)) == describe(build(long, data_shape=DATA))


@every_component
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))], ids=["deepcopy", "pickle"])
def test_a_copy_is_the_same_and_its_own(registration: Registration, copied: Any) -> None:
    component = build(small(registration), **shapes(registration))
    twin, before = copied(component), outputs(component)
    assert describe(twin) == describe(component)
    assert same(outputs(twin), before)
    for parameter in twin.parameters():
        nn.init.constant_(parameter, 7.0)
    assert same(outputs(component), before)


def test_describe_follows_a_replaced_part() -> None:
    model = build(vae(), data_shape=DATA)
    model.prior = build({"type": "nets/gaussian_mixture", "components": 3}, latent_shape=(2,))
    model.decoder.likelihood = build({"type": "nets/gaussian", "sigma": 0.5})
    described = describe(model, data_shape=DATA)
    assert described["prior"] == {"type": "nets/gaussian_mixture", "components": 3, "spread": 1.0}
    assert described["decoder"]["likelihood"] == {"type": "nets/gaussian", "sigma": 0.5}
    twin = build(described, data_shape=DATA)
    twin.load_state_dict(model.state_dict())
    assert same(outputs(twin), outputs(model))


def test_a_description_is_a_copy() -> None:
    model = build(vae(), data_shape=DATA)
    describe(model)["encoder"]["hidden"].append(99)
    assert describe(model)["encoder"]["hidden"] == [4]


def test_a_description_holds_full_names_only() -> None:
    described = describe(build(vae(type="vae", prior="standard_normal"), data_shape=DATA))
    assert re.findall(r'"type": "([^"/]*)"', json.dumps(described)) == []


def test_a_config_is_not_changed_by_building() -> None:
    config = vae()
    before = json.dumps(config)
    build(config, data_shape=DATA)
    assert json.dumps(config) == before


# shapes


def test_shapes_are_filled_in_and_left_out_again() -> None:
    model = build(vae(), data_shape=DATA)
    assert model.encoder.data_shape == model.decoder.data_shape == DATA
    assert model.prior.latent_shape == model.decoder.latent_shape == (2,)
    told = json.dumps(describe(model, data_shape=DATA))
    assert "shape" not in told
    # Without the shape given beforehand it is told once, by the part that came first.
    assert json.dumps(describe(model)).count("data_shape") == 1


def test_shapes_follow_the_encoder() -> None:
    grid = vae(encoder={"type": "nets/conv_encoder", "latents": 5, "channels": [2, 2], "layout": "grid"})
    model = build(grid, data_shape=(3, 9, 7))
    assert model.prior.latent_shape == model.decoder.latent_shape == (5, 3, 2)


def test_explicit_shapes_win() -> None:
    decoder = {"type": "nets/mlp_decoder", "hidden": [4], "data_shape": [1, 4, 4]}
    with pytest.raises(ConfigError, match=r"differ in data_shape: encoder \(1, 8, 8\), decoder \(1, 4, 4\)"):
        build(vae(decoder=decoder), data_shape=DATA)
    alone = build(decoder, data_shape=DATA, latent_shape=(2,))
    assert alone.data_shape == (1, 4, 4)
    assert describe(alone, data_shape=DATA, latent_shape=(2,))["data_shape"] == [1, 4, 4]


def test_an_explicit_shape_reaches_the_parts_after_it() -> None:
    """What the encoder's config says stands against what ``build`` was given, for the decoder too."""
    encoder = {"type": "nets/mlp_encoder", "latents": 2, "data_shape": [1, 4, 4]}
    model = build(vae(encoder=encoder), data_shape=DATA)
    assert model.encoder.data_shape == model.decoder.data_shape == (1, 4, 4)
    assert build(describe(model, data_shape=DATA), data_shape=DATA).data_shape == (1, 4, 4)


def test_shapes_that_differ_after_building_are_named() -> None:
    decoder = {"type": "nets/mlp_decoder", "latent_shape": [3]}
    with pytest.raises(ConfigError, match=r"latent_shape: encoder \(2,\), decoder \(3,\), prior \(3,\)"):
        build(vae(decoder=decoder), data_shape=DATA)


@pytest.mark.parametrize("decoder", ["nets/conv_decoder", "nets/resnet_decoder"])
def test_a_grid_that_the_stages_cannot_start_from_is_refused(decoder: str) -> None:
    encoder = {"type": "nets/conv_encoder", "latents": 5, "channels": [2, 2], "layout": "grid"}
    with pytest.raises(ConfigError, match=r"^decoder\.latent_shape: .*\(L, 4, 4\).* got \(5, 2, 2\)$"):
        build(vae(encoder=encoder, decoder={"type": decoder, "channels": [2]}), data_shape=DATA)


def test_a_whole_may_give_a_part_another_shape() -> None:
    """What is changed for one part the others do not see, and no config repeats it."""
    config = vae(type="vae/conditional_vae", classes=3)
    model = build(config, data_shape=DATA)
    assert (model.encoder.data_shape, model.encoder.latent_shape) == ((4, 8, 8), (2,))
    assert (model.decoder.data_shape, model.decoder.latent_shape) == (DATA, (5,))
    assert (model.data_shape, model.prior.latent_shape) == (DATA, (2,))
    described = describe(model, data_shape=DATA)
    assert "shape" not in json.dumps(described)
    assert describe(build(described, data_shape=DATA), data_shape=DATA) == described
    # Without the shape given beforehand, each of the two tells its own.
    alone = describe(model)
    assert (alone["encoder"]["data_shape"], alone["decoder"]["data_shape"]) == ([4, 8, 8], [1, 8, 8])
    assert json.dumps(alone).count("shape") == 2
    assert describe(build(alone)) == alone


def test_a_model_of_latents_may_be_given_another_shape_too() -> None:
    """The top prior of a hierarchy is of the top's latents, by a default of the whole's or as its config says."""
    parts = {"bottom_encoder": VAE["encoder"], "bottom_decoder": VAE["decoder"]}
    for upper, size in (({}, 16), ({"upper": [5, 7]}, 7)):
        gmm = {"type": "classical/gmm", "components": 3}
        model = build({"type": "vae/hierarchical_vae", **parts, "top_prior": gmm, **upper}, data_shape=DATA)
        assert model.top_prior.data_shape == (size,)
        assert "shape" not in json.dumps(describe(model, data_shape=DATA))
        assert build(describe(model)).top_prior.data_shape == (size,)


def test_what_a_part_is_told_by_the_whole_its_own_config_overrides() -> None:
    encoder = {**VAE["encoder"], "data_shape": [1, 8, 8]}
    with pytest.raises(ConfigError, match=r"^encoder\.data_shape: must be \(4, 8, 8\)"):
        build(vae(type="vae/conditional_vae", classes=3, encoder=encoder), data_shape=DATA)


def test_a_shape_that_nothing_provides_is_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"^encoder\.data_shape: is required; nothing before it provides it$"):
        build(VAE)


# errors: (config, kind, what the message must match)

WRONG: dict[str, tuple[Any, str | None, str]] = {
    "item of a list": (
        vae(encoder={"type": "nets/conv_encoder", "latents": 2, "channels": [8, -3]}),
        "model",
        r"encoder\.channels\[1\]: must be a positive integer, got -3",
    ),
    "unknown key": (
        vae(encoder={"type": "nets/mlp_encoder", "latnets": 2}),
        "model",
        r"encoder\.latnets: no such argument; did you mean 'latents'\?",
    ),
    "unknown key, nothing near": (
        {"type": "nets/gaussian", "zebra": 1},
        None,
        r"zebra: no such argument; there are: sigma",
    ),
    "key of a component without arguments": (
        vae(encoder={"type": "nets/mlp_encoder", "latents": 2, "posterior": {"type": "nets/dirac", "width": 1}}),
        "model",
        r"encoder\.posterior\.width: no such argument; there are: none",
    ),
    "missing argument": (
        vae(encoder={"type": "nets/mlp_encoder"}),
        "model",
        r"encoder\.latents: is required",
    ),
    "missing part": ({"type": "vae/vae"}, "model", r"encoder: is required"),
    "wrong kind": ("nets/bernoulli", "encoder", r"no encoder 'nets/bernoulli'.*nets/mlp_encoder.*"),
    "wrong kind inside": (
        vae(prior="nets/bernoulli"),
        "model",
        r"prior: 'nets/bernoulli' is a likelihood, not a prior or model",
    ),
    "wrong kind deep inside": (
        vae(decoder={"type": "nets/mlp_decoder", "likelihood": "nets/standard_normal"}),
        "model",
        r"decoder\.likelihood: no likelihood 'nets/standard_normal'.*",
    ),
    "unknown type": (
        vae(encoder="mlp_encodr"),
        "model",
        r"encoder: no encoder 'mlp_encodr'; did you mean: nets/.*",
    ),
    "unknown type of several kinds": (
        vae(prior="standard_norml"),
        "model",
        r"prior: no component 'standard_norml'; did you mean: nets/.*",
    ),
    "unknown plugin": (vae(prior="zebras/stripes"), "model", r"prior: .*'zebras'.*"),
    "no type": (vae(prior={"components": 3}), "model", r"prior: must be a mapping with a 'type'.*"),
    "number for a part": (vae(prior=3), "model", r"prior: must be a mapping with a 'type', or a name; got 3"),
    "null for a part": (vae(prior=None), "model", r"prior: must be a prior or a model, got None"),
    "list for a part": (
        vae(prior=[{"type": "nets/standard_normal"}]),
        "model",
        r"prior: must be a prior or a model, got \[\{'type': 'nets/standard_normal'\}\]",
    ),
    "root is a list": ([VAE], "model", r"must be a mapping with a 'type'.*"),
    "root is null": (None, "model", r"must be a mapping with a 'type'.*"),
    "at the root": ({"type": "vae/elbo", "beta": -1}, "loss", r"beta: must be a number of at least 0, got -1"),
    "nan": ({"type": "vae/elbo", "beta": float("nan")}, "loss", r"beta: must be .*, got nan"),
    "too large for a float": ({"type": "vae/elbo", "beta": 10**400}, "loss", r"beta: must be .*, got 1000.*\.\.\."),
    "true for one": ({"type": "vae/iwae", "samples": True}, "loss", r"samples: must be a positive integer, got True"),
    "a half open range": (
        {"type": "nets/logit_laplace", "epsilon": 0.5},
        None,
        r"epsilon: must be a number between 0 and 0\.5, got 0\.5",
    ),
    "literal": (
        vae(encoder={"type": "nets/mlp_encoder", "latents": 2, "activation": "selu"}),
        "model",
        r"encoder\.activation: must be one of 'relu', .*, got 'selu'",
    ),
}


@pytest.mark.parametrize(("config", "kind", "message"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("function", [build, check])
def test_an_error_starts_with_its_path(config: Any, kind: str | None, message: str, function: Any) -> None:
    with pytest.raises((ConfigError, UnknownComponent)) as caught:
        function(config, kind)
    assert re.fullmatch(message, str(caught.value)), caught.value


@pytest.mark.parametrize(("config", "kind", "message"), WRONG.values(), ids=WRONG)
def test_check_puts_the_outer_path_before(config: Any, kind: str | None, message: str) -> None:
    with pytest.raises((ConfigError, UnknownComponent), match=r"^recipe\.model[.:]"):
        check(config, kind, path="recipe.model")


def test_what_a_constructor_refuses_has_a_path_too() -> None:
    empty = {"type": "nets/conv_encoder", "latents": 2, "channels": []}
    with pytest.raises(ConfigError, match=r"^encoder\.channels: must name at least one stage, got \[\]$"):
        build(vae(encoder=empty), data_shape=DATA)
    with pytest.raises(ConfigError, match=r"^encoder\.data_shape: must be \(channels, height, width\)"):
        build(vae(encoder={**empty, "channels": [4]}), data_shape=(64,))
    with pytest.raises(ConfigError, match=r"^encoder\.data_shape\[0\]: must be a positive integer, got 0"):
        build(vae(), data_shape=(0, 8, 8))


def test_outside_a_config_the_path_is_the_constructor() -> None:
    encoder = default_host().load(default_host().find("encoder", "nets/mlp_encoder"))
    with pytest.raises(ConfigError, match=r"^MLPEncoder\.hidden\[1\]: must be a positive integer, got 'wide'$"):
        encoder((1, 8, 8), 2, hidden=[4, "wide"])


HUGE = 10**12  # a layer that wide would take terabytes


@pytest.mark.parametrize(
    "wrong",
    [
        {"prior": {"type": "nets/gaussian_mixture", "components": 0}},
        {"decoder": {"type": "nets/mlp_decoder", "hiden": [4]}},
        {"decoder": {"type": "nets/mlp_decoder", "likelihood": {"type": "nets/gaussian", "sigma": "wide"}}},
        {"decoder": "nets/zebra"},
        {"prior": ["nets/standard_normal"]},
    ],
)
def test_nothing_is_allocated_before_everything_is_checked(wrong: dict[str, Any]) -> None:
    encoder = {"type": "nets/mlp_encoder", "latents": 2, "hidden": [HUGE]}
    with pytest.raises((ConfigError, UnknownComponent)):
        build(vae(encoder=encoder, **wrong), data_shape=DATA)


# what only other plugins can show: latents that misfit, parts in lists, classes that nobody offers


class Rows(Encoder):
    """Emits a sequence of latents."""

    def __init__(self, data_shape: Shape) -> None:
        super().__init__()
        BUILT.append(self)
        self.data_shape, self.latent_shape = tuple(data_shape), (2, 3)

    def forward(self, x: Tensor) -> Distribution:
        mu = x.new_zeros(len(x), 2, 3)
        return Independent(Normal(mu, mu + 1), 2)


class Codes(Prior):
    """Accepts codes only."""

    def __init__(self, latent_shape: Shape) -> None:
        super().__init__()
        self.latent_shape = tuple(latent_shape)

    def forward(self, condition: Any = None) -> Distribution:
        raise NotImplementedError


class Weighted(Loss):
    """Σ_i w_i loss_i."""

    def __init__(
        self, parts: Sequence[Loss], weights: Sequence[float] = (), last: Loss | Sequence[Loss] | None = None
    ) -> None:
        super().__init__()
        self.parts, self.weights = nn.ModuleList(parts), weights or [1.0] * len(parts)
        self.last = nn.ModuleList(last) if isinstance(last, Sequence) else last

    def forward(self, model: Any, batch: Batch) -> LossOutput:
        totals = [w * part(model, batch).total for w, part in zip(self.weights, self.parts, strict=True)]
        return LossOutput(torch.stack(totals).sum(), {})


class Holder(Loss):
    """Has a part that provides a shape."""

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, model: Any, batch: Batch) -> LossOutput:
        raise NotImplementedError


class Sized(Loss):
    """Takes a shape after a part that provides none itself."""

    def __init__(self, part: Loss, latent_shape: Shape) -> None:
        super().__init__()
        self.part = part

    def forward(self, model: Any, batch: Batch) -> LossOutput:
        raise NotImplementedError


class Forgetful(Loss):
    """Does not keep its part."""

    def __init__(self, part: Loss) -> None:
        super().__init__()

    def forward(self, model: Any, batch: Batch) -> LossOutput:
        raise NotImplementedError


class Unmarked(Prior):
    """No plugin offers it."""

    latent_shape = (2,)

    def forward(self, condition: Any = None) -> Distribution:
        return Independent(Normal(torch.zeros(2), torch.ones(2)), 1)


BUILT: list[Encoder] = []


class OtherPlugin:
    @hookimpl
    def zoo_encoders(self) -> Iterator[EncoderSpec]:
        yield EncoderSpec(name="rows", target=f"{__name__}:Rows", emits=("sequence[real]",), summary="Rows.")
        yield EncoderSpec(name="liar", target=f"{__name__}:Codes", summary="Is no encoder.")

    @hookimpl
    def zoo_priors(self) -> Iterator[PriorSpec]:
        yield PriorSpec(name="codes", target=f"{__name__}:Codes", accepts=("vector[codes]",), summary="Codes.")

    @hookimpl
    def zoo_losses(self) -> Iterator[LossSpec]:
        yield LossSpec(name="weighted", target=f"{__name__}:Weighted", summary="A sum.")
        yield LossSpec(name="holder", target=f"{__name__}:Holder", summary="Holds.")
        yield LossSpec(name="sized", target=f"{__name__}:Sized", summary="Has a shape.")
        yield LossSpec(name="forgetful", target=f"{__name__}:Forgetful", summary="Forgets.")


@pytest.fixture
def host() -> PluginHost:
    host = PluginHost()
    host.register(OtherPlugin(), "other")
    BUILT.clear()
    return host


def test_latents_that_misfit_are_told_from_the_specs_alone(host: PluginHost) -> None:
    with pytest.raises(ConfigError, match=r"emits sequence\[real\], but decoder 'conv_decoder' accepts"):
        build(vae(encoder="other/rows", decoder="nets/conv_decoder"), host=host, data_shape=DATA)
    with pytest.raises(ConfigError, match=r"but prior 'codes' accepts vector\[codes\]"):
        build(vae(encoder="other/rows", prior="other/codes"), host=host, data_shape=DATA)
    assert BUILT == []
    assert build(vae(encoder="other/rows"), host=host, data_shape=DATA).latent_shape == (2, 3)


def test_a_part_is_built_once_and_only_if_all_is_well(host: PluginHost) -> None:
    with pytest.raises(ConfigError):
        build(vae(encoder="other/rows", decoder={"type": "nets/mlp_decoder", "hidden": 4}), host=host, data_shape=DATA)
    assert BUILT == []
    build(vae(encoder="other/rows"), host=host, data_shape=DATA)
    assert len(BUILT) == 1


def test_shapes_inside_a_part_are_not_seen_outside(host: PluginHost) -> None:
    prior = {"type": "nets/standard_normal", "latent_shape": [5]}
    sized = {"type": "other/sized", "part": {"type": "other/holder", "prior": prior}}
    with pytest.raises(ConfigError, match=r"^latent_shape: is required; nothing before it provides it$"):
        build(sized, host=host)
    loss = build(sized, host=host, latent_shape=(2,))
    assert describe(loss, host=host, latent_shape=(2,)) == sized
    assert describe(loss, host=host) == {**sized, "latent_shape": [2]}


def test_parts_in_a_list_are_described_and_built_again(host: PluginHost) -> None:
    config = {
        "type": "other/weighted",
        "parts": [{"type": "vae/elbo", "beta": 2.0, "free_bits": 0.0, "warmup": 3}, {"type": "vae/iwae", "samples": 2}],
        "weights": [0.5, 2.0],
        "last": None,
    }
    loss = build(config, "loss", host=host)
    assert [type(part).__name__ for part in loss.parts] == ["ELBO", "IWAE"]
    assert json.loads(json.dumps(describe(loss, host=host))) == config
    assert same(outputs(build(describe(loss, host=host), host=host)), outputs(loss))
    both = {**config, "last": config["parts"]}
    assert describe(build(both, host=host), host=host) == both
    one = {**config, "last": config["parts"][1]}
    assert describe(build(one, host=host), host=host) == one
    none = {**config, "parts": [], "weights": []}
    assert json.loads(json.dumps(describe(build(none, host=host), host=host))) == none


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (["vae/iwae", {"type": "vae/elbo", "beta": -1}], r"^parts\[1\]\.beta: must be a number of at least 0, got -1$"),
        (["vae/iwae", "nets/dirac"], r"^parts\[1\]: no loss 'nets/dirac'"),
        ("vae/iwae", r"^parts: must be a list, each item a loss, got 'vae/iwae'$"),
        ({"type": "vae/iwae"}, r"^parts: must be a list, each item a loss, got \{"),
        (None, r"^parts: must be a list, each item a loss, got None$"),
        (["vae/iwae", None], r"^parts\[1\]: must be a mapping with a 'type', or a name; got None$"),
    ],
)
def test_errors_in_a_list_name_the_item(parts: Any, message: str, host: PluginHost) -> None:
    with pytest.raises((ConfigError, UnknownComponent), match=message):
        build({"type": "other/weighted", "parts": parts}, host=host)


def test_a_class_that_nobody_offers_cannot_be_described(host: PluginHost) -> None:
    model = build(vae(), data_shape=DATA)
    model.prior = Unmarked()
    with pytest.raises(ConfigError, match="no plugin offers Unmarked"):
        describe(model)
    rows = build("other/rows", host=host, data_shape=DATA)
    assert describe(rows, host=host, data_shape=DATA) == {"type": "other/rows"}
    with pytest.raises(ConfigError, match="no plugin offers Rows"):
        describe(rows)


def test_a_class_of_another_kind_than_its_spec_says_is_refused(host: PluginHost) -> None:
    with pytest.raises(ConfigError, match=r"^encoder: 'other/liar' is no Encoder, as its spec says$"):
        build(vae(encoder="other/liar"), host=host, data_shape=DATA)


def test_a_class_that_does_not_keep_its_part_is_told_so(host: PluginHost) -> None:
    with pytest.raises(TypeError, match=r"Forgetful must keep its argument 'part' as the attribute self\.part"):
        build({"type": "other/forgetful", "part": "vae/elbo"}, host=host)


def test_a_model_in_the_place_of_a_prior_is_one_of_latents() -> None:
    """No shape is repeated: what are latents to the whole are data to such a part, also in what describes it."""
    config = vae(prior={"type": "classical/gmm", "components": 3})
    model = build(config, "model", data_shape=DATA)
    assert model.prior.data_shape == model.latent_shape
    assert model.data_shape == DATA
    described = describe(model, data_shape=DATA)
    assert "data_shape" not in described["prior"]
    assert build(described, data_shape=DATA).prior.data_shape == model.latent_shape


def test_a_fitted_model_is_a_prior_with_a_density() -> None:
    model = build(vae(prior={"type": "classical/gmm", "components": 3}), "model", data_shape=DATA)
    with pytest.raises(ConfigError, match="no parameters yet"):
        model.sample(2)
    z = torch.randn(50, *model.latent_shape)
    model.prior.begin(z)
    p_z = model.prior()
    assert (p_z.batch_shape, p_z.event_shape) == ((), model.latent_shape)
    assert p_z.sample((4, 5)).shape == (4, 5, *model.latent_shape)
    torch.testing.assert_close(p_z.log_prob(z.view(10, 5, -1)), model.prior.log_prob(z).view(10, 5))
    assert torch.isfinite(build("vae/elbo")(model, {"image": torch.rand(4, *DATA).round()}).total)


def test_a_prior_without_a_density_refuses_to_give_one() -> None:
    model = build(vae(prior={"type": "classical/kmeans", "clusters": 3}), "model", data_shape=DATA)
    model.prior.begin(torch.randn(50, *model.latent_shape))
    with pytest.raises(ConfigError, match="KMeans has no density"):
        build("vae/elbo")(model, {"image": torch.rand(4, *DATA).round()})
