"""Write the golden files anew, after a deliberate change of the wire or of a codec."""

from __future__ import annotations

import json

from golden import (
    CODECS_DECODED,
    FOLDER,
    FRAMES,
    GOLDEN_CODECS,
    SEGMENT_FILE,
    decoded_digest,
    golden_payload,
    golden_segment,
)

from psedge.protocol.wire import encode_header


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, header in FRAMES.items():
        (FOLDER / name).write_bytes(encode_header(header))
    (FOLDER / SEGMENT_FILE).write_bytes(golden_segment())
    decoded = {}
    for name, codec in GOLDEN_CODECS.items():
        payload = golden_payload(codec)
        (FOLDER / f"codec-{name}.bin").write_bytes(payload)
        decoded[name] = decoded_digest(codec, payload)
    (FOLDER / CODECS_DECODED).write_text(json.dumps(decoded, indent=1) + "\n")


if __name__ == "__main__":
    main()
