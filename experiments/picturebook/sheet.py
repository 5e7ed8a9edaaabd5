"""A sheet: one story on one page, its pictures side by side and its sentences beneath."""

from PIL import Image, ImageDraw, ImageFont

from experiments.picturebook.pen import CREAM, INK
from utils.files import atomic_write


def wrap(text, font, width):
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def draw_sheet(photo_paths, sentences, path, width=1280):
    """Write a PNG of one story, `width` pixels wide: its pictures side by side, each sentence
    beneath its picture."""
    gap, letters = width // 60, width / 75
    side = (width - gap) // len(photo_paths) - gap
    font, line = ImageFont.load_default(size=letters), round(1.4 * letters)
    texts = [wrap(sentence, font, side) for sentence in sentences]
    sheet = Image.new("RGB", (width, side + line * max(map(len, texts)) + 3 * gap), CREAM)
    pen = ImageDraw.Draw(sheet)
    for k, (photo, text) in enumerate(zip(photo_paths, texts)):
        left = gap + k * (side + gap)
        with Image.open(photo) as picture:
            sheet.paste(
                picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS), (left, gap)
            )
        for row, words in enumerate(text):
            pen.text((left + side / 2, side + 2 * gap + row * line), words, INK, font, anchor="ma")
    with atomic_write(path) as temporary:
        sheet.save(temporary, "PNG")
