"""Models on the Hugging Face Hub, where ``huggingface_hub`` is installed."""

import inspect
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from lmu._arguments import path as path_rule
from lmu._extras import require
from lmu._files import whole_file
from lmu._json import read_object
from lmu.models._arguments import check_bounds
from lmu.models._config import build
from lmu.models._weights import check_fit, load

_DOWNLOAD = ("revision", "cache_dir", "force_download", "local_files_only", "token")


class _Missing:
    """Replaces the mixin if it is missing, and raises an error that says what to install."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__()

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """Raise an error that names the missing package."""
        require("huggingface_hub", "safetensors", extra="hub")

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Raise an error that names the missing package."""
        require("huggingface_hub", "safetensors", extra="hub")


if TYPE_CHECKING:
    from huggingface_hub import PyTorchModelHubMixin as Mixin
else:
    try:
        with warnings.catch_warnings():
            # A warning of tqdm, the Hub's progress bar, in a notebook without ipywidgets.
            warnings.filterwarnings("ignore", "IProgress not found")
            from huggingface_hub import PyTorchModelHubMixin as Mixin
    except ImportError:
        Mixin = _Missing


class HubModel(
    Mixin, library_name="torch-lmu", tags=["legendre-memory-unit", "lmu", "time-series"]
):
    """Base of models on the Hub: weights as safetensors, constructor's arguments as JSON.

    ``save_pretrained(folder)``, ``push_to_hub(name)`` and ``from_pretrained(folder or name)`` are
    those of ``huggingface_hub.PyTorchModelHubMixin``.
    """

    def hub_arguments(self) -> dict[str, Any]:
        """The constructor's arguments as plain data."""
        raise NotImplementedError

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> Any:
        """Write ``config.json`` and ``model.safetensors`` into a folder.

        Args:
            save_directory: The folder, made if it is missing.
            kwargs: Those of the mixin, such as ``push_to_hub=True`` and ``repo_id``.

        Raises:
            ImportError: ``huggingface_hub`` is not installed.
            ValueError: A part of the model is of an unknown class.
        """
        require("huggingface_hub", "safetensors", extra="hub")
        kwargs.setdefault("config", self.hub_arguments())
        return super().save_pretrained(save_directory, **kwargs)

    def _save_pretrained(self, save_directory: Path) -> None:
        from safetensors.torch import save_model

        assert isinstance(self, nn.Module)
        with whole_file(save_directory / "model.safetensors") as temporary:
            save_model(self, str(temporary))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Any:
        """Build a model from a folder or from the Hub.

        Args:
            pretrained_model_name_or_path: The folder that ``save_pretrained`` wrote, or a name on
                the Hub, ``"owner/name"``.
            kwargs: Those of the mixin, such as ``revision``.

        Raises:
            FileNotFoundError: A path, not a name, is no folder, or a file in it is missing.
            ImportError: ``huggingface_hub`` is not installed.
            ValueError: A file is damaged, the files do not belong together, or the config has an
                unknown name.
        """
        require("huggingface_hub", "safetensors", extra="hub")
        path_rule("pretrained_model_name_or_path", pretrained_model_name_or_path)
        where = Path(pretrained_model_name_or_path)
        is_name = not where.is_absolute() and len(where.parts) <= 2
        if not where.is_dir() and not is_name:
            raise FileNotFoundError(f"no such folder: {where}")
        download = {key: value for key, value in kwargs.items() if key in _DOWNLOAD}
        path = _find(str(where), "config.json", download)
        _check_config(read_object(path), set(inspect.signature(cls).parameters), path)
        return super().from_pretrained(str(where), **kwargs)

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, map_location: Any = "cpu", strict: bool = True, **kwargs: Any
    ) -> Any:
        # Replaces the mixin's, which builds the config's model before it looks at the weights, and
        # reads pickles if there are no safetensors.
        download = {key: kwargs.pop(key) for key in _DOWNLOAD if key in kwargs}
        path = _find(model_id, "model.safetensors", download)
        try:
            check_bounds(kwargs)
            check_fit(_make(cls, kwargs, "meta"), path, strict)
            model = _make(cls, kwargs)
        except TypeError as error:  # an argument is missing or of a wrong type
            raise ValueError(f"the config of {model_id} does not make a model: {error}") from error
        load(model, path, strict)
        return model.to(map_location).eval()


def _make(cls: Any, arguments: dict[str, Any], device: str | None = None) -> Any:
    return cls(**{name: build(value, device) for name, value in arguments.items()})


def _find(model: str, name: str, download: dict[str, Any]) -> Path:
    """Find a file of a model, in a folder or on the Hub."""
    from huggingface_hub import hf_hub_download

    if not Path(model).is_dir():
        return Path(hf_hub_download(repo_id=model, filename=name, **download))
    if not (path := Path(model) / name).is_file():
        raise FileNotFoundError(
            f"no such file: {path}, in a folder that save_pretrained wrote there is one"
        )
    return path


def _check_config(config: dict[str, Any], known: set[str], path: Path) -> None:
    if unknown := sorted(set(config) - known):
        raise ValueError(
            f"{path} has the arguments {', '.join(unknown[:5])}, which are not known here: it is "
            "damaged, or of another version of torch-lmu"
        )
