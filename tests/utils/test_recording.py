"""Tests of recording the calls of layers."""

import threading

import numpy as np
from keras import layers, ops

from keras_butterfly.utils.recording import recorded


def test_two_threads_do_not_mix_what_they_record():
    layer = layers.Dense(4)
    layer.build((None, 4))
    found = {}

    def record(value):
        for _ in range(50):
            with recorded([layer]) as calls:
                layer(np.full((2, 4), value, "float32"))
            found.setdefault(value, []).extend(calls[id(layer)])

    threads = [threading.Thread(target=record, args=(value,)) for value in (1.0, 2.0, 3.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for value, calls in found.items():
        assert len(calls) == 50
        assert all(float(ops.max(call.inputs)) == value for call in calls)
    assert "call" not in layer.__dict__
