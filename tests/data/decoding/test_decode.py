from __future__ import annotations

import io
import struct
import sys
import zlib
from collections.abc import Callable

import numpy as np
import pillow_heif
import pytest
from PIL import ExifTags, Image

from distcls.data.decoding import decode as decoding
from distcls.data.decoding.decode import BadImageError, Decoding, decode, decode_and_describe, fit


def saved(image: Image.Image, format: str = "PNG", **options: object) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, format, **options)
    file.seek(0)
    return file


def test_image_size_none_gives_the_pixels_as_they_are(gradient: Image.Image) -> None:
    assert np.array_equal(decode(saved(gradient), Decoding(None)), np.asarray(gradient))


def test_crop_keeps_the_center(gradient: Image.Image) -> None:
    assert np.array_equal(decode(saved(gradient), Decoding(20)), np.asarray(gradient)[:, 10:30])


def test_crop_is_resize_of_the_short_side_and_then_a_cut(gradient: Image.Image) -> None:
    whole = np.asarray(gradient.resize((20, 10), Image.Resampling.BILINEAR))
    assert np.array_equal(decode(saved(gradient), Decoding(10)), whole[:, 5:15])


@pytest.mark.parametrize(("background", "color"), [("white", (255, 255, 255)), ("#102030", (16, 32, 48))])
def test_pad_centers_on_the_background(gradient: Image.Image, background: str, color: tuple[int, int, int]) -> None:
    pixels = decode(saved(gradient), Decoding(40, "pad", background))
    assert np.array_equal(pixels[10:30], np.asarray(gradient))
    assert (pixels[:10] == color).all() and (pixels[30:] == color).all()


def test_squish_keeps_all_edges(gradient: Image.Image) -> None:
    pixels = decode(saved(gradient), Decoding(20, "squish"))
    assert pixels.shape == (20, 20, 3)
    assert pixels[0, 0, 0] < 12 and pixels[0, -1, 0] > 220


def test_an_image_one_pixel_high_can_be_padded() -> None:
    assert decode(saved(Image.new("RGB", (500, 1), "white")), Decoding(8, "pad", "black")).any()


def test_shrinking_antialiases() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    pixels = np.asarray(fit(Image.fromarray(stripes), Decoding(8)))
    assert abs(pixels.astype(int) - 127).max() < 20


def test_an_image_of_the_right_size_is_not_touched(gradient: Image.Image) -> None:
    square = gradient.crop((0, 0, 20, 20))
    assert fit(square, Decoding(20, "pad")) is square


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("L", 70, (70, 70, 70)),
        ("1", 1, (255, 255, 255)),
        ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (255, 0, 0, 255), (255, 0, 0)),
        ("LA", (0, 51), (204, 204, 204)),
        ("I;16", 257 * 100, (100, 100, 100)),
        ("I;16", 65535, (255, 255, 255)),
    ],
)
def test_modes_become_rgb(mode: str, color: object, expected: tuple[int, int, int]) -> None:
    pixels = decode(saved(Image.new(mode, (4, 4), color)), Decoding(None))  # type: ignore[arg-type]
    assert tuple(pixels[0, 0]) == expected


def test_cmyk_jpeg_becomes_rgb() -> None:
    pixels = decode(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"), Decoding(None))
    assert pixels[0, 0, 0] > 230 and pixels[0, 0, 1] < 25


def test_palette_with_a_transparent_color_lies_on_white() -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([10, 20, 30])
    assert tuple(decode(saved(image), Decoding(None))[0, 0]) == (10, 20, 30)
    assert tuple(decode(saved(image, transparency=0), Decoding(None))[0, 0]) == (255, 255, 255)


def test_transparent_pixels_show_the_background() -> None:
    half = Image.new("RGBA", (4, 4), (200, 0, 0, 51))
    pixels = decode(saved(half), Decoding(None, background="navy"))
    assert tuple(pixels[0, 0]) == (40, 0, 102)


def png_of_16_bits(color_type: int, *values: int) -> io.BytesIO:
    """One pixel. Pillow itself cannot write such files."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, color_type, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" + struct.pack(f">{len(values)}H", *values)))
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b""))


def test_16_bit_colors_are_scaled_by_range() -> None:
    assert decode(png_of_16_bits(2, 65535, 32768, 300), Decoding(None))[0, 0].tolist() == [255, 128, 1]
    assert decode(png_of_16_bits(6, 65535, 32768, 300, 0), Decoding(None))[0, 0].tolist() == [255, 255, 255]
    assert decode(png_of_16_bits(4, 51 * 256, 65535), Decoding(None))[0, 0].tolist() == [51, 51, 51]


def test_16_bit_gray_of_a_netpbm_file_is_scaled_by_its_own_white() -> None:
    file = io.BytesIO(b"P5 1 1 1000\n" + struct.pack(">H", 1000))
    assert decode(file, Decoding(None))[0, 0, 0] == 255


def test_a_given_range_holds_for_16_bit_gray_too() -> None:
    xray = Image.fromarray(np.array([[0, 2048, 4095, 65535]], np.uint16))
    for format in ("PNG", "TIFF"):
        pixels = decode(saved(xray, format), Decoding(None, float_range=(0, 4095)))
        assert pixels[0, :, 0].tolist() == [0, 128, 255, 255]


def test_a_netpbm_file_keeps_its_own_white_beside_a_given_range() -> None:
    file = io.BytesIO(b"P5 1 1 1000\n" + struct.pack(">H", 1000))
    assert decode(file, Decoding(None, float_range=(0, 1)))[0, 0, 0] == 255


def test_floats_of_a_netpbm_file_need_a_range() -> None:
    data = b"Pf 2 1 -1.0\n" + struct.pack("<2f", 0.5, 1)
    with pytest.raises(BadImageError, match=r"numbers from 0.5 to 1.*data.float_range=\[0, 1\]"):
        decode(io.BytesIO(data), Decoding(None))
    assert decode(io.BytesIO(data), Decoding(None, float_range=(0, 1)))[0, :, 0].tolist() == [128, 255]


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_numbers_without_a_range_ask_for_it(dtype: type) -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 4]], dtype))
    with pytest.raises(BadImageError, match=r"numbers from 0 to 4.*data.float_range=\[0, 1\]"):
        decode(saved(image, "TIFF"), Decoding(None))
    pixels = decode(saved(image, "TIFF"), Decoding(None, float_range=(1, 3)))
    assert pixels[..., 0].tolist() == [[0, 0], [128, 255]]


def test_what_is_not_a_number_becomes_black() -> None:
    image = Image.fromarray(np.array([[np.nan, np.inf, -np.inf]], np.float32))
    assert decode(saved(image, "TIFF"), Decoding(None, float_range=(0, 1)))[0, :, 0].tolist() == [0, 255, 0]


def test_float_range_may_turn_black_and_white_around() -> None:
    image = Image.fromarray(np.array([[0, 1]], np.float32))
    assert decode(saved(image, "TIFF"), Decoding(None, float_range=(1, 0)))[0, :, 0].tolist() == [255, 0]


def frames(format: str) -> io.BytesIO:
    images = [Image.new("RGB", (4, 4), color) for color in ("red", "lime", "blue")]
    return saved(images[0], format, save_all=True, append_images=images[1:])


@pytest.mark.parametrize(
    ("format", "expected"), [("GIF", True), ("PNG", True), ("WEBP", True), ("TIFF", True), ("MPO", False)]
)
def test_the_first_frame_of_an_animation_is_the_image(format: str, expected: bool) -> None:
    pixels, original = decode_and_describe(frames(format), Decoding(None))
    assert pixels[0, 0, 0] > 240 and pixels[0, 0, 1:].max() < 10
    assert original.is_animation is expected


def test_a_broken_second_frame_does_not_matter() -> None:
    file = io.BytesIO(frames("GIF").getvalue()[:-30])
    assert decode(file, Decoding(None))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_what_a_file_held_is_described(gradient: Image.Image, format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels, original = decode_and_describe(saved(gradient, format, exif=exif), Decoding(None))
    assert (original.format, original.mode, original.width, original.height) == (format, "RGB", 20, 40)
    assert pixels.shape == (40, 20, 3)
    assert not original.is_animation


def test_exif_rotation_is_applied(gradient: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    assert decode(saved(gradient, "JPEG", exif=exif), Decoding(None)).shape == (40, 20, 3)


def test_broken_exif_does_not_make_an_image_bad(gradient: Image.Image) -> None:
    assert decode(saved(gradient, "JPEG", exif=b"Exif\x00\x00nonsense"), Decoding(None)).shape == (20, 40, 3)


def broken(make: Callable[[bytes], bytes], format: str) -> io.BytesIO:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    return io.BytesIO(make(saved(noise, format).getvalue()))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "TIFF", "GIF", "WEBP"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_truncated_files_are_bad(format: str, share: float) -> None:
    with pytest.raises(BadImageError):
        decode(broken(lambda data: data[: int(len(data) * share)], format), Decoding(32))


@pytest.mark.parametrize("content", [b"hello, I am a text", b"\xff\xd8\xff\xe0", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_files_that_are_no_images_are_bad(content: bytes) -> None:
    with pytest.raises(BadImageError) as error:
        decode(io.BytesIO(content), Decoding(32))
    assert 0 < len(str(error.value)) < 100


def test_an_empty_file_is_not_an_image() -> None:
    with pytest.raises(BadImageError, match="an empty file"):
        decode(io.BytesIO(), Decoding(32))


def test_a_damaged_png_is_bad() -> None:
    with pytest.raises(BadImageError):
        decode(broken(lambda data: data[:200] + b"\0" * 50 + data[250:], "PNG"), Decoding(32))


def test_a_decompression_bomb_is_bad(monkeypatch: pytest.MonkeyPatch, gradient: Image.Image) -> None:
    file = saved(gradient)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BadImageError, match="more than 200 pixels"):
        decode(file, Decoding(32))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_large_photograph_is_no_bomb_(monkeypatch: pytest.MonkeyPatch, gradient: Image.Image) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    assert decode(saved(gradient), Decoding(32)).shape == (32, 32, 3)


def test_a_missing_file_is_bad_and_says_so() -> None:
    with pytest.raises(BadImageError, match="No such file"):
        decode("/nowhere/1.jpg", Decoding(32))


def photograph(width: int, height: int, **options: object) -> io.BytesIO:
    """A JPEG in which every place looks different."""
    coarse = np.random.default_rng(0).integers(0, 256, (height // 40, width // 40, 3)).astype(np.uint8)
    return saved(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), "JPEG", **options)


@pytest.mark.parametrize("resize", ["crop", "pad", "squish"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_large_jpeg_decoded_small_is_nearly_the_same(
    monkeypatch: pytest.MonkeyPatch, resize: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = photograph(1201, 802, exif=exif)
    sizes, upright = [], decoding._upright
    monkeypatch.setattr(decoding, "_upright", lambda image, turn: sizes.append(image.size) or upright(image, turn))
    small = decode(file, Decoding(48, resize)).astype(int)
    monkeypatch.setattr(decoding, "OVERSAMPLING", 10**6)
    whole = decode(file, Decoding(48, resize))
    assert sizes == [(151, 101), (1201, 802)]
    assert np.abs(small - whole).mean() < 1 and np.abs(small - whole).max() < 10


def test_a_jpeg_not_much_larger_than_needed_is_decoded_whole() -> None:
    file = photograph(400, 191)
    expected = Image.open(file).resize((48, 48), Image.Resampling.BILINEAR, box=(104.5, 0, 295.5, 191))
    assert np.array_equal(decode(file, Decoding(48)), np.array(expected))


def test_a_truncated_jpeg_is_bad_though_decoded_small() -> None:
    data = photograph(1200, 800).getvalue()
    with pytest.raises(BadImageError):
        decode(io.BytesIO(data[: int(len(data) * 0.9)]), Decoding(32))


def heic(orientation: int = 1) -> io.BytesIO:
    """As an iPhone writes it: red at the top left, and turned by metadata."""
    pillow_heif.register_heif_opener()
    image, exif = Image.new("RGB", (64, 48), "blue"), Image.Exif()
    image.paste("red", (0, 0, 32, 24))
    exif[ExifTags.Base.Orientation] = orientation
    return saved(image, "HEIF", exif=exif.tobytes())


@pytest.mark.parametrize(("orientation", "shape", "corner"), [(1, (48, 64, 3), (8, 8)), (6, (64, 48, 3), (8, 40))])
def test_heic_files_are_decoded_upright(orientation: int, shape: tuple[int, ...], corner: tuple[int, int]) -> None:
    pixels, original = decode_and_describe(heic(orientation), Decoding(None))
    assert pixels.shape == shape and (original.width, original.height) == shape[1::-1] and original.format == "HEIF"
    assert np.abs(pixels[corner].astype(int) - (255, 0, 0)).max() < 30 and pixels[-8, 8, 0] < 30


def test_heic_files_that_are_damaged_are_bad_images() -> None:
    content = bytearray(heic().getvalue())
    for place in range(200, len(content)):
        content[place] ^= 0x55
    with pytest.raises(BadImageError):
        decode(io.BytesIO(bytes(content)), Decoding(None))


def test_without_pillow_heif_a_heic_file_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    file = heic()
    decoding._register_heif.cache_clear()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(BadImageError, match=r"needs pillow-heif: python -m pip install 'distcls\[heic\]'"):
        decode(file, Decoding(None))
