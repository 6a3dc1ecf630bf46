"""Models of architectures that chiasm does not have, computed by transformers behind the same methods.

They can be asked, compared and evaluated, but not trained or blended. Only classes that come with the installed
transformers are used, and only safetensors are read: no code of a checkpoint ever runs."""

from chiasm.weights.foreign.model import ForeignModel as ForeignModel
from chiasm.weights.foreign.opening import choose as choose
from chiasm.weights.foreign.opening import load as load
