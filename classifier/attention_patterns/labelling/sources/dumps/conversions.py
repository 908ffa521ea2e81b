"""Files that are no dumps: what to do with them, in a line that converts them where there is one."""

from pathlib import PurePosixPath
from shlex import quote

from attention_patterns.labelling.sources.texts.rows import TEXT_SUFFIXES
from attention_patterns.labelling.sources.texts.tasks import PICTURE_SUFFIXES

# A list of layers as a model returns them is stacked, and an array that was stacked already stays as it is.
_TORCH = (
    "import torch, numpy; numpy.savez({to!r}, attention="
    "torch.stack([*torch.load({path!r}, weights_only=True)]).detach().float().numpy())"
)
_PICKLE = (
    "import pickle, numpy; numpy.savez({to!r}, attention="
    "numpy.stack([numpy.asarray(layer) for layer in pickle.load(open({path!r}, 'rb'))]))"
)
_JSON = "import json, numpy; numpy.savez({to!r}, attention=numpy.array(json.load(open({path!r})), 'float32'))"
_LINES = {".pt": _TORCH, ".pth": _TORCH, ".pkl": _PICKLE, ".pickle": _PICKLE, ".json": _JSON}


def advise(path: str) -> str:
    """Returns what to do with a file that is no dump, as the end of a message; "" where nothing is known."""
    suffix = PurePosixPath(path).suffix.lower()
    if suffix in _LINES:
        code = _LINES[suffix].format(path=path, to=f"{path[: -len(suffix)]}.npz")
        trust = ", which runs what it holds, if you trust it," if _LINES[suffix] is _PICKLE else ""
        texts = "if it holds texts, give --model NAME; if attention, " if suffix in TEXT_SUFFIXES else ""
        return f"; {texts}convert it{trust} with: python -c {quote(code)}"
    if suffix in (*TEXT_SUFFIXES, *PICTURE_SUFFIXES):
        kind = "pictures" if suffix in PICTURE_SUFFIXES else "texts"
        return f"; {PurePosixPath(path).name} is of {kind}, which a model reads: give --model NAME"
    return ""
