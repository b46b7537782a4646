"""Storage of adapters: a local folder, or a repository of the Hugging Face Hub.

A repository contains the files of `FILES` and nothing else. Downloaded files are not trusted: only these names are
requested, links out of a folder are not followed, and each file has a maximum size.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsam_adapt.core.errors import InputError, RunError
from medsam_adapt.core.files import folder_written_whole, is_disk_full

ORIGIN_FILE, CARD_FILE = "medsam_adapt.json", "README.md"
ADAPTER_WEIGHTS = "adapter/adapter_model.safetensors"
FILES = {  # the files of a repository, and the most bytes that each may have
    ORIGIN_FILE: 64 << 10,
    CARD_FILE: 1 << 20,
    "run.json": 4 << 20,
    "statistics.json": 16 << 20,
    "adapter/adapter_config.json": 64 << 10,
    ADAPTER_WEIGHTS: 4 << 30,  # SAM's largest encoder, trained whole
}
OPTIONAL = ("statistics.json", CARD_FILE)

_SCHEME = "hf://"
_ADDRESS = re.compile(r"hf://([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([A-Za-z0-9][\w./-]*))?")
_HUB_OWN = (".gitattributes",)  # the hub puts it into every repository


@dataclass(frozen=True)
class LocalFolder:
    """A repository as a folder of this machine.

    Attributes:
        path: the folder.
    """

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def refuse_other_files(self, overwrite: bool) -> None:
        """Refuse to write where anything but a repository of ours would be replaced.

        Args:
            overwrite: whether a repository that is there is replaced.

        Raises:
            InputError: files are there that are not ours, or that may not be replaced.
        """
        found = [*self.path.iterdir(), *(self.path / "adapter").glob("*")] if self.path.is_dir() else []
        present = sorted(path.relative_to(self.path).as_posix() for path in found)
        _refuse_other(str(self), present, [*FILES, "adapter"], overwrite)

    @contextmanager
    def written(self) -> Iterator[Path]:
        """A folder to fill, which becomes the repository when the block succeeds."""
        with folder_written_whole(self.path) as folder:
            yield folder

    @contextmanager
    def fetched(self) -> Iterator[Path]:
        """A temporary folder with copies of the repository's files.

        Raises:
            InputError: no such folder, a file that is missing or too large, or a link that leads out of the folder.
        """
        if not self.path.is_dir():
            raise InputError(
                f"{self}: it does not exist. Give a folder written by 'adapters push', or hf://OWNER/NAME."
            )
        with tempfile.TemporaryDirectory() as temporary:
            for name, limit in FILES.items():
                path = self.path / name
                if not path.exists() and name in OPTIONAL:
                    continue
                if not path.is_file():
                    raise InputError(
                        f"{self}: it is not an adapter repository, since it has no {name}. Copy the whole folder."
                    )
                if not path.resolve().is_relative_to(self.path.resolve()):
                    raise InputError(
                        f"{path}: it is a link out of {self} and is not followed. Replace it with the file."
                    )
                _refuse_large(str(path), path.stat().st_size, limit)
                target = Path(temporary) / name
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, target)
            yield Path(temporary)


@dataclass(frozen=True)
class HubRepository:
    """A repository of the Hugging Face Hub; the library's own settings apply, such as ``HF_ENDPOINT`` and ``HF_TOKEN``.

    Attributes:
        name: OWNER/NAME.
        revision: branch, tag or commit; None for the main branch.
    """

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{_SCHEME}{self.name}" + f"@{self.revision}" * bool(self.revision)

    def refuse_other_files(self, overwrite: bool) -> None:
        """As for a folder; a repository that does not exist yet will be made.

        Args:
            overwrite: whether an adapter that is there is replaced.

        Raises:
            InputError: files are there that are not ours, or that may not be replaced.
            RunError: the hub cannot be asked.
        """
        _refuse_other(str(self), sorted(self._sizes(missing_ok=True)), [*FILES, *_HUB_OWN], overwrite, _HUB_OWN)

    @contextmanager
    def written(self) -> Iterator[Path]:
        """A temporary folder to fill, which is uploaded as one commit when the block succeeds.

        Raises:
            RunError: the hub cannot be reached, or does not let this user write.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            yield folder
            names = [name for name in FILES if (folder / name).is_file()]
            with _explained_errors(self):
                there = self._sizes(missing_ok=True)
                if not there:
                    _hub().create_repo(self.name, private=True, exist_ok=True)
                _hub().create_commit(
                    self.name,
                    [
                        *(CommitOperationAdd(name, folder / name) for name in names),
                        *(CommitOperationDelete(name) for name in FILES if name in there and name not in names),
                    ],
                    commit_message="Adapter trained with medsam-adapt",
                    revision=self.revision,
                )

    @contextmanager
    def fetched(self) -> Iterator[Path]:
        """A temporary folder with the repository's files, all of one commit.

        Raises:
            InputError: no such repository, a file that is missing or too large.
            RunError: the hub cannot be reached.
        """
        sizes, commit = self._sizes(), self._info().sha
        for name, limit in FILES.items():
            if name not in sizes and name not in OPTIONAL:
                raise InputError(
                    f"{self}: it is not an adapter repository, since it has no {name}. Choose another one."
                )
            _refuse_large(f"{name} of {self}", sizes.get(name, 0), limit)
        with tempfile.TemporaryDirectory() as temporary:
            for name in FILES:
                if name in sizes:
                    with _explained_errors(self):
                        _hub().hf_hub_download(self.name, name, revision=commit, local_dir=temporary)
                    _refuse_large(f"{name} of {self}", (Path(temporary) / name).stat().st_size, FILES[name])
            yield Path(temporary)

    def _info(self) -> Any:
        with _explained_errors(self):
            return _hub().model_info(self.name, revision=self.revision, files_metadata=True)

    def _sizes(self, missing_ok: bool = False) -> dict[str, int]:
        """Name -> bytes of the repository's files; none where it does not exist and may be missing."""
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            return {file.rfilename: file.size or 0 for file in self._info().siblings or ()}
        except InputError as error:
            if missing_ok and isinstance(error.__cause__, RepositoryNotFoundError):
                return {}
            raise


Place = LocalFolder | HubRepository


def place_of(text: str) -> Place:
    """The place that a user names: ``hf://OWNER/NAME``, with ``@REVISION`` behind it perhaps, or a folder.

    Raises:
        InputError: another kind of address, or one of the hub where its library is not installed.
    """
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        return LocalFolder(Path(text))
    found = _ADDRESS.fullmatch(text)
    if found is None:
        raise InputError(
            f"{text}: it is not a valid location for an adapter. Give a folder, or hf://OWNER/NAME[@REVISION]."
        )
    if importlib.util.find_spec("huggingface_hub") is None:
        raise InputError(f'{text}: it needs huggingface_hub. Install it with pip install "medsam-adapt[hub]".')
    return HubRepository(found[1], found[2])


def _hub() -> Any:
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    # The library reads the variable too, but only once, when it is imported.
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT", "").rstrip("/") or None, library_name="medsam-adapt")


@contextmanager
def _explained_errors(repository: HubRepository) -> Iterator[None]:
    """Turn what the hub's library raises into a sentence.

    Raises:
        InputError: the repository or the revision does not exist.
        RunError: no connection, or the hub refuses.
    """
    from huggingface_hub import errors

    # requests' errors are OSErrors; of the HTTP libraries in later versions only this name is common.
    http_error: type[Exception] = errors.HfHubHTTPError.__bases__[0]
    unreachable = (
        f"{repository}: the hub cannot be reached. Check the connection and HF_HUB_OFFLINE, or use a local folder."
    )
    try:
        yield
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f"{repository}: it does not exist or is private. Check the name, or log in with 'hf auth login'."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InputError(f"{repository}: it has no revision '{repository.revision}'. Choose another one.") from error
    except errors.HFValidationError as error:
        raise InputError(f"{repository}: it is not a valid name on the hub. Give hf://OWNER/NAME.") from error
    except errors.LocalEntryNotFoundError as error:
        raise RunError(unreachable) from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "none")
        login = "Log in with 'hf auth login' as a user with permission." if status in (401, 403) else "Try again later."
        raise RunError(f"{repository}: the hub refused the request (status {status}). {login}") from error
    except json.JSONDecodeError as error:
        raise RunError(
            f"{repository}: the answer did not come from the hub. Check the connection, then try again."
        ) from error
    except ValueError as error:  # of the card's front matter, which the hub reads before it takes anything
        if not str(error).startswith("Invalid metadata"):
            raise
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{repository}: the hub rejected the card ({reason}). Use another --license.") from error
    except (OSError, http_error) as error:
        raise RunError(
            f"{repository}: the disk is full. Free some space." if _is_full(error) else unreachable
        ) from error


def _is_full(error: Exception) -> bool:
    return isinstance(error, OSError) and is_disk_full(error)


def _refuse_other(
    where: str, present: list[str], ours: list[str], overwrite: bool, ignored: tuple[str, ...] = ()
) -> None:
    """Refuse what is not ours, then what is ours and may not be replaced.

    Raises:
        InputError: either.
    """
    others = [name for name in present if name not in ours]
    if others or (set(present) - set(ignored) and ORIGIN_FILE not in present):
        other = (others or sorted(set(present) - set(ignored)))[0]
        raise InputError(f"{where}: it contains other files ({other}) and is not replaced. Choose another location.")
    if ORIGIN_FILE in present and not overwrite:
        raise InputError(f"{where}: it already contains an adapter. Choose another location, or add --overwrite.")


def _refuse_large(what: str, size: int, limit: int) -> None:
    if size > limit:
        raise InputError(
            f"{what}: it has {size:,} bytes, and files of that name are limited to {limit:,}. Choose another adapter."
        )
