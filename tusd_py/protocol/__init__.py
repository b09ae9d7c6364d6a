"""The tus protocol, version 1.0.0 (https://tus.io/protocols/resumable-upload): one module per section."""

from __future__ import annotations

from tusd_py.config import Config
from tusd_py.protocol.base import Extension, NotOffered
from tusd_py.protocol.checksum import Checksum
from tusd_py.protocol.concatenation import Concatenation
from tusd_py.protocol.creation import Creation
from tusd_py.protocol.defer_length import DeferLength
from tusd_py.protocol.download import Download
from tusd_py.protocol.expiration import Expiration
from tusd_py.protocol.termination import Termination
from tusd_py.stores.base import Concatenable, Readable, Store, Terminable


def extensions_for(store: Store, config: Config) -> list[Extension]:
    """Return the extensions that the store can do and the configuration allows, in the order of their steps."""
    off = set(config.disable)
    extensions: list[Extension] = [Creation(config.max_metadata_size), DeferLength()]
    if config.expire_after and isinstance(store, Terminable):
        extensions.append(Expiration())
    extensions.append(NotOffered("Upload-Checksum") if "checksum" in off else Checksum())
    if "termination" not in off and isinstance(store, Terminable):
        extensions.append(Termination())
    if "concatenation" not in off and isinstance(store, Concatenable):
        extensions.append(Concatenation(config.max_concat_members, unfinished=config.concatenation_unfinished))
    else:
        extensions.append(NotOffered("Upload-Concat"))
    if "download" not in off and isinstance(store, Readable):
        extensions.append(Download())
    return extensions
