import io

import numpy as np
import soundfile

from hf_ssl.data.samples.ogg import with_fixed_serial


def encode(samples):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 8_000, format="OGG", subtype="OPUS")
    return buffer.getvalue()


def test_same_samples_give_the_same_bytes_and_still_decode():
    samples = np.sin(np.arange(60_000) / 7).astype(np.float32) / 2
    first, second = encode(samples), encode(samples)
    assert first != second  # otherwise there would be nothing to do
    fixed = with_fixed_serial(first)
    assert fixed == with_fixed_serial(second)
    expected, _ = soundfile.read(io.BytesIO(first), dtype="float32")
    decoded, rate = soundfile.read(io.BytesIO(fixed), dtype="float32")
    assert rate == 8_000
    np.testing.assert_array_equal(decoded, expected)


def test_the_checksum_is_that_of_the_encoder():
    stream = encode(np.zeros(8_000, dtype=np.float32))
    serial = int.from_bytes(stream[14:18], "little")
    assert with_fixed_serial(stream, serial) == stream
