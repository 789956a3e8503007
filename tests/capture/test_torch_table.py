"""The ATen table agrees with torch's own schemas."""

import operator

import torch

from graphopt.capture.torch.ops import ATEN
from graphopt.capture.torch.table import parameter, parameters


def overload(name: str):
    """The operator behind a table name, None where this torch lacks it."""
    try:
        return operator.attrgetter(name)(torch.ops)
    except AttributeError:
        return None


def test_entries_name_arguments_that_the_schemas_have():
    wrong = []
    for name, handler in ATEN.items():
        if name.count(".") != 2:
            continue
        found = overload(name)
        if found is None:
            wrong.append(f"{name} does not exist") if not name.startswith("torchvision.") else None
            continue
        known = {parameter(a.name) for a in found._schema.arguments}
        required = {n for n in parameters(handler) if n not in known and not _has_default(handler, n)}
        if required:
            wrong.append(f"{name} has no {', '.join(sorted(required))}; it has {', '.join(sorted(known))}")
    assert not wrong, "\n".join(wrong)


def _has_default(handler, name: str) -> bool:
    import inspect

    return inspect.signature(handler).parameters[name].default is not inspect.Parameter.empty
