"""Finds and builds the dense model of a job's `model` section.

A model is an `nn.Module` with `forward(dense_BF, sparse) -> logits_BL`; `sparse` is a
`bagpipe.cache.lookup.SparseEmbeddings`. It receives embeddings and knows nothing of caching. Its class
is called as `Class(layout=..., num_dense=..., num_labels=..., **arguments)`; parameters of that name are
passed only if it declares them, and the rest come from the job. A model may have a method
`loss(logits_BL, labels_BL)`, see `bagpipe.models.loss`.
"""

import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, TypeVar

from torch import nn

from bagpipe.config.model import MODEL_SETTINGS, ModelConfig
from bagpipe.errors import ConfigError
from bagpipe.lowlevel.wording import listed
from bagpipe.models.lazy import make_lazy_weights
from bagpipe.models.random_numbers import Draws
from bagpipe.nn import feed_collections
from bagpipe.tables import TableLayout

ModelClass = TypeVar("ModelClass", bound=Callable[..., nn.Module])

ENTRY_POINTS = "bagpipe.models"
"""Group under which an installed package lists the modules that register its models."""

_SHIPPED = {name: f"bagpipe.models.{name.replace('-', '_')}" for name in MODEL_SETTINGS}
"""Modules of the models that come with Bagpipe, imported when one is asked for."""

_MODELS: dict[str, Callable[..., nn.Module]] = {}
"""Registered models by name. Filled by decorators while modules are imported, read afterwards."""


def register_model(name: str) -> Callable[[ModelClass], ModelClass]:
    """Make a class (or a function that returns a module) known as `model.name` of the job.

    Raises:
        ConfigError: the name is taken by another class.
    """

    def register(model: ModelClass) -> ModelClass:
        shipped = _SHIPPED.get(name, model.__module__)
        if shipped != model.__module__:
            raise ConfigError(f"register_model: {name!r} is taken by {shipped}; choose another name")
        known = _MODELS.setdefault(name, model)
        if known is not model and _origin(known) != _origin(model):
            raise ConfigError(f"register_model: {name!r} is taken by {_origin(known)}; choose another name")
        _MODELS[name] = model
        return model

    return register


@dataclass(frozen=True, slots=True, eq=False)
class Constructed:
    """What a model's constructor has made, and of what; `build_model` completes it."""

    module: nn.Module
    config: ModelConfig
    seed: int
    arguments: Mapping[str, Any]
    draws: Draws
    """Its first weights come from these, and those that are made later go on with them."""

    def is_of(self, config: ModelConfig, seed: int, arguments: Mapping[str, Any]) -> bool:
        """Whether calling the constructor again would make the same."""
        return (self.config, self.seed, self.arguments) == (config, seed, arguments)


def construct(config: ModelConfig, seed: int, **offered: Any) -> Constructed:
    """Call the model's constructor; its first weights depend on `seed` alone.

    The process's random state is left as it was, so that building a model never changes the random numbers that the
    calling program draws.

    Args:
        offered: arguments of which the model gets those that it declares.

    Raises:
        ConfigError: unknown model, an entrypoint that cannot be imported, arguments that do not fit, or no module.
    """
    where, model = find_model(config)
    arguments = constructor_arguments(config, where, model, **offered)
    draws = Draws(seed)
    with draws.going_on():
        module = model(**arguments)
    if not isinstance(module, nn.Module):
        raise ConfigError(f"{where}: expected a torch.nn.Module, found {type(module).__name__}")
    return Constructed(module, config, seed, arguments, draws)


def build_model(
    config: ModelConfig,
    layout: TableLayout,
    num_dense: int,
    num_labels: int,
    seed: int,
    *,
    early: Constructed | None = None,
) -> nn.Module:
    """Build the job's dense model; its first weights depend on `seed` alone.

    Args:
        early: taken instead of calling the constructor once more, where that would make the same.

    Raises:
        ConfigError: as `construct`, or the model's collections do not fit the tables.
    """
    offered: dict[str, Any] = {"layout": layout, "num_dense": num_dense, "num_labels": num_labels}
    where, model = find_model(config)
    arguments = constructor_arguments(config, where, model, **offered)
    same = early is not None and early.is_of(config, seed, arguments)
    made = early if early is not None and same else construct(config, seed, **offered)
    built = made.module
    with made.draws.going_on():
        feed_collections(built, layout)
        make_lazy_weights(built, layout, num_dense)
    # Every loop of one's own calls it once: a model's own `train` may keep a layer in evaluation mode.
    if any(type(module).train is not nn.Module.train for module in built.modules()):
        built.train()
    return built


@contextmanager
def naming_the_trained_model(config: ModelConfig) -> Iterator[None]:
    """Within it the dense model of a checkpoint is built.

    A job without `model` names a default one, which a loop with a model of its own never built: the tables need not
    fit it, and then the model is what has to be named, not the tables that have to be changed.

    Raises:
        ConfigError: the model of the checkpoint's job cannot be built.
    """
    try:
        yield
    except ConfigError as error:
        if config.entrypoint is not None:
            raise
        raise ConfigError(
            f"the checkpoint's job names model.name {config.name}, which cannot be built: give the model that was "
            f"trained: a loop of your own names its class in spec.model.entrypoint of the job ({error})"
        ) from error


def check_model(config: ModelConfig) -> str:
    """Import the model and check that it takes the job's arguments, before there is data; returns where it was named.

    Raises:
        ConfigError: as `construct`, except for mistakes that only calling the constructor shows.
    """
    where, model = find_model(config)
    constructor_arguments(config, where, model, layout=None, num_dense=0, num_labels=0)
    return where


def find_model(config: ModelConfig) -> tuple[str, Callable[..., nn.Module]]:
    """Where the model was named, for messages, and the model."""
    if config.entrypoint is not None:
        return f"model.entrypoint {config.entrypoint}", _import(config.entrypoint)
    if config.name in _SHIPPED:
        import_module(_SHIPPED[config.name])
    elif config.name not in _MODELS:
        _import_installed()
    if config.name in _MODELS:
        return f"model.name {config.name}", _MODELS[config.name]
    names = sorted(_MODELS.keys() | _SHIPPED.keys())
    near = difflib.get_close_matches(config.name, names, 1)
    hint = f"did you mean {near[0]!r}?" if near else "or give model.entrypoint"
    known = ", ".join(names)
    raise ConfigError(f"model.name: expected one of {known}, found {config.name!r}; {hint}")


def _import_installed() -> None:
    """Import what installed packages name under the entry point group `bagpipe.models`; their decorators run."""
    for point in entry_points(group=ENTRY_POINTS):
        try:
            point.load()
        except (ImportError, AttributeError) as error:
            where = f"package {point.dist.name}, " if point.dist else ""
            raise ConfigError(
                f"model.name: {where}entry point {point.name} = {point.value!r} of group {ENTRY_POINTS} cannot be "
                f"imported ({error}); repair or remove the package"
            ) from error


def _import(entrypoint: str) -> Callable[..., nn.Module]:
    module, _, attribute = entrypoint.partition(":")
    if not module or not attribute:
        raise ConfigError(f"model.entrypoint: expected `package.module:Class`, found {entrypoint!r}")
    try:
        found = import_module(module)
    except ImportError as error:
        raise ConfigError(f"model.entrypoint: cannot import {module!r} ({error}); is it on PYTHONPATH?") from error
    model = getattr(found, attribute, None)
    if not callable(model):
        names = [name for name, value in vars(found).items() if inspect.isclass(value)]
        near = difflib.get_close_matches(attribute, names, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {listed(names) or 'no classes'}"
        raise ConfigError(f"model.entrypoint: {module!r} has no class {attribute!r}; {hint}")
    checked: Callable[..., nn.Module] = model
    return checked


def constructor_arguments(
    config: ModelConfig, where: str, model: Callable[..., nn.Module], **offered: Any
) -> dict[str, Any]:
    """Keyword arguments for the model: the job's, and those `offered` that the model declares.

    Raises:
        ConfigError: an argument is unknown to the model, missing, or set by the job itself.
    """
    # A class without a constructor of its own has nn.Module's, whose `**kwargs` accept no argument of a job.
    bare = inspect.isclass(model) and model.__init__ is nn.Module.__init__
    parameters = {} if bare else inspect.signature(model).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    chosen = _settings(config)
    for name in chosen:
        if name not in parameters and not takes_any:
            raise ConfigError(
                f"{where}: it has no setting {name}; it takes {', '.join(parameters) or 'none'}; remove it"
            )
    offered |= chosen
    declared = {name: value for name, value in offered.items() if name in parameters or takes_any}
    for name in config.args:
        if name in offered:
            raise ConfigError(f"{where}: model.args.{name} is set by the job itself; remove it")
        if name not in parameters and not takes_any:
            near = difflib.get_close_matches(name, parameters, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(parameters) or 'none'}"
            raise ConfigError(f"{where}: no argument {name!r} (model.args); {hint}")
    try:
        inspect.signature(model).bind(**declared, **config.args)
    except TypeError as error:
        raise ConfigError(f"{where}: {error}; set it in model.args") from error
    return {**declared, **config.args}


def _settings(config: ModelConfig) -> dict[str, Any]:
    """The typed settings that the job gives; what it leaves out is the model's own default."""
    own = ("name", "entrypoint", "args", "precision", "loss", "task_weights")
    values = {field: getattr(config, field) for field in config.__struct_fields__ if field not in own}
    return {field: value for field, value in values.items() if value is not None}


def _origin(model: Callable[..., nn.Module]) -> str:
    return f"{model.__module__}:{getattr(model, '__qualname__', type(model).__name__)}"
