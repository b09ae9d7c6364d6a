"""The types of files that this plugin knows by their content, and what file names and media types claim."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from pathlib import PurePosixPath
from typing import NamedTuple


class FileType(NamedTuple):
    """A type of file; `groups` are names for several types in `allow`, `deny` and `max_size`."""

    name: str
    title: str
    groups: frozenset[str] = frozenset()
    extensions: tuple[str, ...] = ()
    media_types: tuple[str, ...] = ()
    base: str | None = None
    """The type that it also is, as a .docx is a zip."""


def _type(name: str, title: str, groups: str = "", extensions: str = "", media: str = "", base: str = "") -> FileType:
    return FileType(
        name, title, frozenset(groups.split()), tuple(extensions.split()), tuple(media.split()), base or None
    )


TYPES = {
    each.name: each
    for each in (
        # Tables and containers of data
        _type("parquet", "Parquet", "table", "parquet", "application/vnd.apache.parquet application/x-parquet"),
        _type("arrow", "Arrow file", "table", "arrow feather ipc", "application/vnd.apache.arrow.file"),
        _type("arrow-stream", "Arrow stream", "table", "arrow arrows ipc", "application/vnd.apache.arrow.stream"),
        _type("feather", "Feather (version 1)", "table", "feather"),
        _type("orc", "ORC", "table", "orc"),
        _type("avro", "Avro", "table", "avro", "application/avro"),
        _type("hdf5", "HDF5", "array", "h5 hdf5 hdf he5 keras", "application/x-hdf5 application/x-hdf"),
        _type("npy", "NumPy array", "array", "npy"),
        _type("npz", "NumPy arrays", "array archive", "npz", base="zip"),
        _type("npy-objects", "NumPy array of pickled objects", "array pickle", "npy", base="npy"),
        _type("sqlite", "SQLite", "database", "sqlite sqlite3 gpkg", "application/vnd.sqlite3 application/x-sqlite3"),
        _type("duckdb", "DuckDB", "database", "duckdb"),
        # Models
        _type("safetensors", "safetensors", "model", "safetensors"),
        _type("gguf", "GGUF", "model", "gguf"),
        _type("tflite", "TensorFlow Lite", "model", "tflite"),
        _type("pytorch", "PyTorch file with pickles", "model pickle archive", "pt pth ckpt bin", base="zip"),
        _type("pickle", "Python pickle", "pickle", "pkl pickle p pt pth ckpt joblib", "application/python-pickle"),
        # Archives and compressed files
        _type("zip", "zip", "archive", "zip keras mar", "application/zip application/x-zip-compressed"),
        _type("tar", "tar", "archive", "tar", "application/x-tar"),
        _type("gz", "gzip", "compressed archive", "gz tgz gzip", "application/gzip application/x-gzip"),
        _type("bz2", "bzip2", "compressed archive", "bz2 tbz2", "application/x-bzip2"),
        _type("xz", "xz", "compressed archive", "xz txz", "application/x-xz"),
        _type("zst", "Zstandard", "compressed archive", "zst tzst", "application/zstd"),
        _type("lz4", "LZ4", "compressed archive", "lz4"),
        _type("7z", "7-Zip", "archive", "7z", "application/x-7z-compressed"),
        _type("rar", "RAR", "archive", "rar", "application/vnd.rar application/x-rar-compressed"),
        # Programs
        _type("elf", "ELF program", "executable", "so elf", "application/x-executable application/x-elf"),
        _type(
            "pe", "Windows program", "executable", "exe dll sys scr", "application/vnd.microsoft.portable-executable"
        ),
        _type("macho", "macOS program", "executable", "dylib", "application/x-mach-binary"),
        _type("script", "script with #!", "executable", "sh bash zsh", "application/x-sh text/x-shellscript"),
        _type("wasm", "WebAssembly", "executable", "wasm", "application/wasm"),
        _type("java-class", "Java class", "executable", "class", "application/java-vm"),
        _type("jar", "Java or Android program", "executable archive", "jar war apk", "application/java-archive", "zip"),
        _type("dex", "Android program", "executable", "dex"),
        _type("pyc", "compiled Python", "executable", "pyc"),
        _type("lnk", "Windows shortcut", "executable", "lnk"),
        # Documents and media
        _type("pdf", "PDF", "document", "pdf", "application/pdf"),
        _type("office", "Office document", "document", "docx xlsx pptx", base="zip"),
        _type("odf", "OpenDocument", "document", "odt ods odp epub", "application/epub+zip", base="zip"),
        _type("ole", "old Office document", "document", "doc xls ppt msg", "application/msword"),
        _type("rtf", "RTF", "document", "rtf", "application/rtf text/rtf"),
        _type("png", "PNG", "image", "png", "image/png"),
        _type("jpeg", "JPEG", "image", "jpg jpeg", "image/jpeg"),
        _type("gif", "GIF", "image", "gif", "image/gif"),
        _type("webp", "WebP", "image", "webp", "image/webp"),
        _type("bmp", "BMP", "image", "bmp", "image/bmp"),
        _type("tiff", "TIFF", "image", "tif tiff", "image/tiff"),
        _type("heif", "HEIF or AVIF", "image", "heic heif avif", "image/heic image/heif image/avif"),
        _type("jxl", "JPEG XL", "image", "jxl", "image/jxl"),
        _type("wav", "WAV", "audio", "wav", "audio/wav audio/x-wav audio/wave"),
        _type("flac", "FLAC", "audio", "flac", "audio/flac"),
        _type("mp3", "MP3", "audio", "mp3", "audio/mpeg"),
        _type("ogg", "Ogg", "audio", "ogg oga opus ogv", "audio/ogg video/ogg audio/opus"),
        _type("aiff", "AIFF", "audio", "aif aiff", "audio/aiff"),
        _type("mp4", "MP4", "video", "mp4 m4a m4v mov", "video/mp4 audio/mp4 video/quicktime"),
        _type("matroska", "Matroska or WebM", "video", "mkv webm", "video/webm video/x-matroska audio/webm"),
        _type("avi", "AVI", "video", "avi", "video/x-msvideo"),
        # Text
        _type("jsonl", "JSON Lines", "text", "jsonl ndjson jsonlines", "application/jsonl application/x-ndjson"),
        _type("json", "JSON", "text", "json geojson ipynb", "application/json"),
        _type("csv", "CSV", "text", "csv", "text/csv"),
        _type("tsv", "tab-separated values", "text", "tsv tab", "text/tab-separated-values"),
        _type("html", "HTML", "text markup", "html htm xhtml", "text/html"),
        _type("xml", "XML or SVG", "text markup", "xml svg", "text/xml application/xml image/svg+xml"),
        _type("text", "text", "text", "txt md log rst yaml yml toml ini py", "text/plain text/markdown"),
        _type("utf16", "UTF-16 text", "text"),
        _type("empty", "empty file"),
        _type("unknown", "unknown"),
    )
}


@cache
def known_names() -> frozenset[str]:
    """Return the names of all types and groups."""
    return frozenset(TYPES).union(*(each.groups for each in TYPES.values()))


def names_of(name: str) -> set[str]:
    """Return a type's name, its base's name and its groups; magika's names are texts."""
    each = TYPES.get(name)
    return {name, *each.groups, *([each.base] if each.base else [])} if each else {name, "text"}


def title(name: str) -> str:
    """Return a type's name for people."""
    return TYPES[name].title if name in TYPES else name


@cache
def _index() -> tuple[dict[str, frozenset[str]], dict[str, frozenset[str]]]:
    extensions, media = defaultdict(set), defaultdict(set)
    for each in TYPES.values():
        for extension in each.extensions:
            extensions[extension].add(each.name)
        for media_type in each.media_types:
            media[media_type].add(each.name)
    # These say too little to be held against a file.
    for vague in ("bin", "p"):
        extensions.pop(vague, None)
    media.pop("text/plain", None)
    return (
        {key: frozenset(value) for key, value in extensions.items()},
        {key: frozenset(value) for key, value in media.items()},
    )


def file_name(metadata: Mapping[str, str]) -> str:
    """Return the file's name with its folders, as far as metadata has them."""
    for key in ("relativePath", "filename", "name"):
        if metadata.get(key):
            return metadata[key].replace("\\", "/")
    return ""


def by_name(name: str) -> frozenset[str]:
    """Return the types that a file name stands for; none if it says nothing."""
    return _index()[0].get(PurePosixPath(name).suffix[1:].lower(), frozenset())


def by_media_type(text: str) -> frozenset[str]:
    """Return the types that a media type stands for; none if it says nothing."""
    return _index()[1].get(text.split(";")[0].strip().lower(), frozenset())


def declared(metadata: Mapping[str, str]) -> list[tuple[str, frozenset[str]]]:
    """Return what the metadata claims: each claim in words, and the types that it stands for."""
    claims = []
    name = file_name(metadata)
    if types := by_name(name):
        claims.append((f"its name {PurePosixPath(name).name!r}", types))
    for key in ("filetype", "type", "contentType", "content-type"):
        if types := by_media_type(metadata.get(key, "")):
            claims.append((f"its media type {metadata[key]!r}", types))
            break
    return claims


def agrees(found: str, claimed: frozenset[str]) -> bool:
    """Return whether a type that was found is one that was claimed."""
    names = names_of(found)
    if "text" in names:  # which kind of text it is shows when it is read
        return any("text" in names_of(claim) for claim in claimed)
    return bool(names & claimed)


def read_as(found: str, metadata: Mapping[str, str]) -> str:
    """Return the type that a file is checked as: a text is what its name says, if it says anything."""
    if "text" not in names_of(found):
        return found
    for _, types in declared(metadata):
        texts = types & {"jsonl", "json", "csv", "tsv", "text", "html", "xml"}
        if len(texts) == 1:
            [text] = texts
            # JSON Lines with the name .json are common.
            return "jsonl" if text == "json" and found == "jsonl" else text
    return found


def inner(metadata: Mapping[str, str]) -> str | None:
    """Return the type that a name like rows.jsonl.gz tells for what is in the compressed file."""
    return next(iter(by_name(str(PurePosixPath(file_name(metadata)).stem)) & {"jsonl", "csv", "tsv"}), None)
