"""Write the golden files anew, after a deliberate change of the wire or of a codec."""

from __future__ import annotations

from golden import CODEC_VALUES, FOLDER, FRAMES

from psedge.compression.table import CODECS
from psedge.protocol.wire import encode_header


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, header in FRAMES.items():
        (FOLDER / name).write_bytes(encode_header(header))
    for kind in CODECS:
        (FOLDER / f"codec-{kind.name}.bin").write_bytes(bytes(kind().encode(CODEC_VALUES, None)))


if __name__ == "__main__":
    main()
