"""A YAML file checked against a schema; what is wrong is told with its line."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from coread.errors import ConfigurationError

Model = TypeVar("Model", bound=BaseModel)


def read_yaml(path: Path, schema: type[Model]) -> Model:
    """The file as ``schema`` has it. Raises ConfigurationError that names the file, and of each wrong key the line."""
    try:
        text = path.read_text(encoding="utf-8")
        values = yaml.safe_load(text)
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read ({error.strerror}); a model package needs one") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8 text; save it as such") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path} is not valid YAML: {error}; correct it") from error
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        problems = [
            f"line {_line_of(tree, problem['loc'])}: {'.'.join(map(str, problem['loc'])) or 'all'}: {problem['msg']}"
            for problem in error.errors(include_input=False, include_url=False)
        ]
        raise ConfigurationError(f"{path}: {'; '.join(problems)}") from error


def _line_of(node: yaml.Node | None, location: Sequence[str | int]) -> int:
    """The line of the key that ``location`` leads to, or of what is nearest to it, counted from 1."""
    line = 1
    for part in location:
        found = _child(node, part)
        if found is None:
            continue  # a part that pydantic adds, such as which member of a union it tried
        key, node = found
        line = key.start_mark.line + 1
    return line


def _child(node: yaml.Node | None, part: str | int) -> tuple[yaml.Node, yaml.Node] | None:
    """The key and the value that a part of a location names."""
    if isinstance(node, yaml.MappingNode):
        return next(((key, value) for key, value in node.value if str(key.value) == str(part)), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part]
    return None
