"""Import of KerasLMU models without TensorFlow or Keras (the extra ``keras``).

- From a ``.keras`` file :func:`load_keras` builds the whole model.
- With a ``.weights.h5`` file and the code of the model: build it of layers of lmu, by
  :func:`from_config` or by hand, and :func:`load_weights` fills them.
- From arrays :func:`from_config` builds one layer and fills it.
"""

from lmu.interop.keras.config import from_config
from lmu.interop.keras.model import KerasModel, load_keras
from lmu.interop.keras.weights import load_weights

__all__ = ["KerasModel", "from_config", "load_keras", "load_weights"]
