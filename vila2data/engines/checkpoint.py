"""Identity of a model's files."""

from hashlib import sha256
from pathlib import Path

from vila2data.files import file_sha256

_NOT_WEIGHTS = (".md", ".txt", ".png", ".gitattributes")


def folder_revision(folder: Path) -> str:
    """``sha256:…`` over the names and contents of a checkpoint's files; the same wherever the
    folder lies.
    """
    digest = sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in name.parts)
        if not hidden and path.suffix not in _NOT_WEIGHTS:
            digest.update(f"{name.as_posix()} {file_sha256(path)}\n".encode())
    return f"sha256:{digest.hexdigest()}"
