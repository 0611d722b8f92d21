"""What libraries report during calls of this package, and where its own warnings point."""

import logging
import warnings

import keras
import numpy as np
import pytest
from keras import layers

from keras_butterfly import distill, export, replace_dense
from keras_butterfly.utils.quiet import warn_user, warnings_not_raised

X = np.random.default_rng(0).uniform(-1, 1, (64, 16)).astype("float32")


def model():
    return keras.Sequential([keras.Input((16,), name="x"), layers.Dense(32, "relu"), layers.Dense(3)])


def test_warnings_point_to_the_users_line():
    with pytest.warns(UserWarning, match="come from 4 example") as caught:
        export.to_tflite(model(), quantize="int8", representative_data=X[:4], tolerance=50)
    assert [warning.filename for warning in caught if "come from 4" in str(warning.message)] == [__file__]


def test_warnings_that_are_errors_do_not_end_a_call_from_inside():
    @warnings_not_raised()
    def warn():
        warnings.warn("of a library", stacklevel=1)
        return 3

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert warn() == 3
        with pytest.raises(UserWarning, match="of our own"):
            warn_user("of our own")
        with pytest.raises(UserWarning, match="of the user"):
            warnings.warn("of the user", stacklevel=1)


@pytest.mark.parametrize(
    "call",
    [
        lambda: export.to_tflite(model(), quantize="int8", representative_data=X, tolerance=5),
        lambda: replace_dense(model(), min_weights=1, data=X, steps=1, progress=False),
        lambda: distill(model(), model(), X, epochs=1, progress=False),
    ],
)
def test_calls_end_though_warnings_are_errors(call):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call()


def test_our_own_warnings_stay_errors_where_the_user_says_so():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="The ranges of int8 come from 4"):
            export.to_tflite(model(), quantize="int8", representative_data=X[:4], tolerance=50)


@pytest.mark.long
def test_many_trainings_do_not_warn_of_retracing(caplog):
    logger = logging.getLogger("tensorflow")
    logger.addHandler(caplog.handler)
    try:
        teacher = model()
        for _ in range(6):
            distill(model(), teacher, X, epochs=1, progress=False)
    finally:
        logger.removeHandler(caplog.handler)
    assert not [record for record in caplog.records if "retracing" in record.getMessage()]


def test_the_runtime_says_nothing_on_stderr(capfd):
    export.to_tflite(model(), effort="estimate").predict(X)
    assert "XNNPACK" not in capfd.readouterr().err


def test_warnings_that_the_user_ignores_stay_ignored():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "of no interest")
        with warnings_not_raised():
            warnings.warn("of no interest", stacklevel=1)
            warnings.warn("of some interest", stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["of some interest"]
