"""A picture as iPhones make them, which nothing in the tests can write: encoded once, by libheif (pillow-heif 1.8.1).

Its 48 rows and 64 columns are those of :func:`scene`, and its EXIF says that it was turned: so it is shown upright with
64 rows and 48 columns.
"""

import base64

import numpy as np

HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAchtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAADRpbG9jAA"
    "AAAERAAAIAAQAAAAAB7AABAAAAAAAAAHUAAgAAAAACYQABAAAAAAAAACQAAAA4aWluZgAAAAAAAgAAABVpbmZlAgAAAAABAABodmMxAAAAABVp"
    "bmZlAgAAAQACAABFeGlmAAAAAA5waXRtAAAAAAABAAABB2lwcnAAAADmaXBjbwAAAHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGE"
    "ABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFzwIkA"
    "AAATY29scm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xhcAAAAEAAAAABAAAAMAAAAAEAAAAAAAAAAv////AAAAACAAAAEH"
    "BpeGkAAAAAAwgICAAAAAlpcm90AwAAABlpcG1hAAAAAAAAAAEAAQaBAgMFhIYAAAAaaXJlZgAAAAAAAAAOY2RzYwACAAEAAQAAAKFtZGF0AAAA"
    "cSgBrxOA9UU8hsM48Kc6RE5JMOHz4EwuhWR9U9hMjOl0Vp8ArdEjPCfMEmNW60F4sN5SQKRnQbqtjf/cShkI2JL9whzO1fcRN0l/C2EEIKiZbt"
    "MnohJ5OVx7WoFzY1MYYjWeGYwou2ebH0BeO5RAqxGYAAAABkV4aWYAAE1NACoAAAAIAAEBEgADAAAAAQAGAAAAAAAA"
)


def scene() -> np.ndarray:
    """What is shown, (64, 48, 3) uint8."""
    rows, columns = np.mgrid[:48, :64]
    return np.rot90(np.stack([columns * 4, rows * 5, 255 - columns * 4], 2).astype(np.uint8), -1)
