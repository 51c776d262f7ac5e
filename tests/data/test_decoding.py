import io
import logging

import numpy as np
import pytest
import soundfile
from PIL import Image, ImageOps

from hf_ssl.data import decoding
from hf_ssl.data.decoding import decode_audio, decode_image, read_audio
from hf_ssl.errors import InputError


def item(path):
    return {"bytes": None, "path": str(path)}


def encoded(image, image_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return {"bytes": buffer.getvalue(), "path": f"picture.{image_format.lower()}"}


def pixel(decoded):
    assert decoded.mode == "RGB"
    return decoded.getpixel((0, 0))


class TestDecodeImage:
    def test_rgb_is_kept_as_it_is(self, tmp_path):
        pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "rgb.png")
        decoded = decode_image(item(tmp_path / "rgb.png"))
        assert decoded.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(decoded), pixels)

    def test_greyscale(self):
        assert pixel(decode_image(encoded(Image.new("L", (2, 2), 77), "PNG"))) == (77, 77, 77)

    def test_black_and_white(self):
        assert pixel(decode_image(encoded(Image.new("1", (2, 2), 1), "PNG"))) == (255, 255, 255)

    def test_sixteen_bit_greyscale_is_scaled_and_not_clipped(self):
        pixels = np.array([[0, 257 * 100, 65_535]], dtype=np.uint16)
        decoded = decode_image(encoded(Image.fromarray(pixels), "PNG"))
        assert np.asarray(decoded)[0].tolist() == [[0] * 3, [100] * 3, [255] * 3]

    def test_sixteen_bit_tiff(self):
        decoded = decode_image(encoded(Image.fromarray(np.full((2, 2), 257 * 9, dtype=np.uint16)), "TIFF"))
        assert pixel(decoded) == (9, 9, 9)

    def test_alpha_is_composited_on_white(self):
        image = Image.new("RGBA", (2, 1), (200, 0, 0, 0))
        image.putpixel((1, 0), (0, 0, 0, 128))
        decoded = decode_image(encoded(image, "PNG"))
        assert decoded.getpixel((0, 0)) == (255, 255, 255)
        assert decoded.getpixel((1, 0)) == (127, 127, 127)

    def test_greyscale_with_alpha(self):
        assert pixel(decode_image(encoded(Image.new("LA", (2, 2), (0, 0)), "PNG"))) == (255, 255, 255)

    def test_palette_with_a_transparent_colour(self):
        image = Image.new("P", (2, 1))
        image.putpalette([10, 20, 30, 40, 50, 60])
        image.putpixel((1, 0), 1)
        decoded = decode_image(encoded(image, "PNG", transparency=0))
        assert decoded.getpixel((0, 0)) == (255, 255, 255)
        assert decoded.getpixel((1, 0)) == (40, 50, 60)

    def test_cmyk(self):
        decoded = decode_image(encoded(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG"))
        red, green, blue = pixel(decoded)
        assert red < 10
        assert green > 245
        assert blue > 245

    def test_first_frame_of_an_animation(self):
        frames = [Image.new("RGB", (3, 3), colour) for colour in ("red", "blue")]
        decoded = decode_image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
        assert pixel(decoded) == (255, 0, 0)

    def test_one_pixel(self):
        assert decode_image(encoded(Image.new("RGB", (1, 1), "lime"), "PNG")).size == (1, 1)

    def test_exif_orientation_is_applied(self):
        image = Image.new("RGB", (20, 10), "white")
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to see it upright
        stored = encoded(image, "JPEG", exif=exif)
        assert decode_image(stored).size == (10, 20)
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(stored["bytes"])))
        np.testing.assert_array_equal(np.asarray(decode_image(stored)), np.asarray(upright))

    @pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
    def test_truncated_file_is_named(self, tmp_path, image_format):
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        content = encoded(Image.fromarray(noise), image_format)["bytes"]
        (tmp_path / "half").write_bytes(content[: len(content) // 2])
        with pytest.raises(InputError, match=r"half is (a damaged image|not an image)"):
            decode_image(item(tmp_path / "half"))

    def test_empty_file(self, tmp_path):
        (tmp_path / "none.png").touch()
        with pytest.raises(InputError, match=r"none\.png is empty \(0 bytes\)"):
            decode_image(item(tmp_path / "none.png"))

    def test_no_image(self, tmp_path):
        (tmp_path / "text.png").write_text("these are no pixels")
        with pytest.raises(InputError, match=r"text\.png is not an image that can be read"):
            decode_image(item(tmp_path / "text.png"))

    def test_floating_point_image(self):
        with pytest.raises(InputError, match="floating-point"):
            decode_image(encoded(Image.new("F", (2, 2), 0.5), "TIFF"))

    def test_missing_file(self, tmp_path):
        with pytest.raises(InputError, match=r"gone\.png cannot be read \(No such file or directory\)"):
            decode_image(item(tmp_path / "gone.png"))

    def test_neither_bytes_nor_path(self):
        with pytest.raises(InputError, match="neither bytes nor a path"):
            decode_image({"bytes": None, "path": None})

    def test_bytes_win_over_a_path_that_is_only_a_name(self):
        stored = encoded(Image.new("RGB", (3, 2), "red"), "PNG")
        assert decode_image({**stored, "path": "nowhere/red.png"}).size == (3, 2)


@pytest.fixture
def sine():
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)).astype(np.float32)


class TestDecodeAudio:
    @pytest.mark.parametrize(("suffix", "tolerance"), [("wav", 1e-4), ("flac", 1e-4), ("ogg", 0.1), ("mp3", 0.1)])
    def test_formats(self, tmp_path, sine, suffix, tolerance):
        soundfile.write(tmp_path / f"a.{suffix}", sine, 16_000)
        waveform = decode_audio(item(tmp_path / f"a.{suffix}"), 16_000)
        assert waveform.dtype == np.float32
        assert waveform.shape == sine.shape
        assert np.abs(waveform - sine)[2_000:-2_000].max() < tolerance

    def test_channels_are_averaged(self, tmp_path, sine):
        soundfile.write(tmp_path / "stereo.wav", np.stack([sine, np.zeros_like(sine)], axis=1), 16_000)
        np.testing.assert_allclose(decode_audio(item(tmp_path / "stereo.wav"), 16_000), sine / 2, atol=1e-4)

    def test_resampling_keeps_the_signal_and_is_said_once(self, tmp_path, sine, caplog):
        soundfile.write(tmp_path / "a.wav", sine, 16_000)
        decoding.report_resampling.cache_clear()
        with caplog.at_level(logging.WARNING, logger=decoding.__name__):
            down = decode_audio(item(tmp_path / "a.wav"), 8_000)
            decode_audio(item(tmp_path / "a.wav"), 8_000)
        assert caplog.messages == ["Recordings at 16000 Hz are resampled to 8000 Hz."]
        assert down.dtype == np.float32
        expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(8_000) / 8_000)
        np.testing.assert_allclose(down[200:-200], expected[200:-200], atol=1e-3)

    def test_its_own_rate(self, tmp_path, sine):
        soundfile.write(tmp_path / "a.wav", sine, 11_025)
        waveform, rate = read_audio(item(tmp_path / "a.wav"))
        assert (len(waveform), rate) == (16_000, 11_025)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_nan_or_infinity_is_named_with_its_time(self, tmp_path, sine, bad):
        sine[4_000:] = bad
        soundfile.write(tmp_path / "bad.wav", sine, 16_000, subtype="FLOAT")
        with pytest.raises(InputError, match=r"bad\.wav holds NaN or infinity, first at 0\.25 s"):
            decode_audio(item(tmp_path / "bad.wav"), 16_000)

    def test_zero_length(self, tmp_path):
        soundfile.write(tmp_path / "zero.wav", np.zeros(0, dtype=np.float32), 16_000)
        with pytest.raises(InputError, match=r"zero\.wav has no samples \(0\.00 s\)"):
            decode_audio(item(tmp_path / "zero.wav"), 16_000)

    def test_empty_file(self, tmp_path):
        (tmp_path / "none.wav").touch()
        with pytest.raises(InputError, match=r"none\.wav is empty \(0 bytes\)"):
            decode_audio(item(tmp_path / "none.wav"), 16_000)

    def test_no_recording(self, tmp_path):
        (tmp_path / "text.wav").write_text("these are no samples")
        with pytest.raises(InputError, match=r"text\.wav is not a recording that can be read"):
            decode_audio(item(tmp_path / "text.wav"), 16_000)

    def test_missing_file(self, tmp_path):
        with pytest.raises(InputError, match=r"gone\.wav cannot be read"):
            decode_audio(item(tmp_path / "gone.wav"), 16_000)
