"""Stories as one page to keep: each photo beside its sentence, everything inside one HTML file.

The page runs nothing and fetches nothing. Photos are data URIs, each there once; samples are
chosen by radio buttons and CSS; all that was not written here is escaped, and the
Content-Security-Policy forbids scripts and addresses should that ever fail.
"""

import base64
import io
from contextlib import suppress
from html import escape
from pathlib import Path
from string import Template
from typing import NamedTuple

from PIL import Image, ImageCms

from utils import cli
from utils.photos import BrokenPhoto, load_photo
from utils.text import one_line

LONGEST, QUALITY = 1000, 80  # of a photo on the page: pixels of its longer side, of its JPEG


class Album(NamedTuple):
    """Photos and the stories about them."""

    name: str
    photos: list[Path]
    samples: dict[int, list[str]]  # number -> one sentence per photo


PAGE = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; \
base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
$style
</style>
</head>
<body>
<main>
$albums
</main>
<footer>Written by plan-CVAE, one sentence per photo.</footer>
</body>
</html>""")

STYLE = """\
:root {
  color-scheme: light dark;
  --paper: #fbf9f5; --ink: #2c2722; --quiet: #746b61; --line: #e4ddd2; --accent: #96482f;
  --shadow: 0 1px 2px rgb(60 40 20 / .16), 0 10px 30px -12px rgb(60 40 20 / .3);
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #181613; --ink: #e9e3d9; --quiet: #a0968a; --line: #38332d; --accent: #e0a285;
    --shadow: 0 1px 2px rgb(0 0 0 / .5), 0 10px 30px -12px rgb(0 0 0 / .8);
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0; padding: 0 1.25rem; background: var(--paper); color: var(--ink); overflow-wrap: anywhere;
  font: 1.1875rem/1.6 "Iowan Old Style", "Palatino Linotype", Palatino, "Book Antiqua", Georgia, serif;
}
main { max-width: 64rem; margin: 0 auto; }
section { padding: clamp(3rem, 9vw, 6.5rem) 0 1rem; }
section + section { border-top: 1px solid var(--line); }
h1 {
  margin: 0; text-align: center; text-wrap: balance; font-weight: 400; letter-spacing: -.01em;
  font-size: clamp(2.1rem, 6vw, 3.4rem); line-height: 1.15;
}
h1::after { content: ""; display: block; width: 2.5rem; margin: 1.6rem auto 0; border-top: 1px solid var(--accent); }
fieldset {
  position: sticky; top: 0; z-index: 1; margin: 1.2rem -1.25rem 0; padding: .5rem 0; border: 0; text-align: center;
  font-size: 1rem; line-height: 1.5; color: var(--quiet); background: var(--paper);
}
legend { float: left; width: 0; height: 0; overflow: hidden; }
label { position: relative; display: inline-block; cursor: pointer; }
label input { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0; cursor: pointer; }
label span { display: block; min-width: 2.75rem; padding: .6rem .7rem; }
label:hover span { color: var(--ink); }
input:checked + span { color: var(--accent); text-decoration: underline; text-underline-offset: .4em; }
input:focus-visible + span { outline: 2px solid var(--accent); outline-offset: -2px; border-radius: 3px; }
figure {
  display: grid; grid-template-columns: 1.15fr 1fr; align-items: center; gap: clamp(1.5rem, 5vw, 4.5rem);
  margin: clamp(2.5rem, 6vw, 4.5rem) 0;
}
img {
  display: block; justify-self: end; width: min(100%, 80vh * var(--ratio), 3.2 * var(--width)); height: auto;
  border-radius: 3px; box-shadow: var(--shadow);
}
.lost { padding: 4rem 1rem; border: 1px dashed var(--line); text-align: center; font-size: 1rem; color: var(--quiet); }
figcaption { font-size: clamp(1.25rem, 2.2vw, 1.5rem); line-height: 1.5; text-wrap: pretty; }
figcaption p { margin: 0; }
footer { padding: 2rem 0 3rem; text-align: center; font-size: .9375rem; font-style: italic; color: var(--quiet); }
@media (max-width: 44rem) {
  figure { grid-template-columns: 1fr; gap: 1.1rem; }
  img { justify-self: center; }
}
@media print {
  @page { margin: 18mm; }
  :root { --paper: #fff; --ink: #000; }
  body { padding: 0; font-size: 12pt; }
  section { padding: 0; }
  section + section { border: 0; break-before: page; }
  fieldset { display: none; }
  h1 { font-size: 26pt; break-after: avoid; }
  figure { grid-template-columns: 1.15fr 1fr; gap: 10mm; margin: 9mm 0; break-inside: avoid; }
  figcaption { font-size: 14pt; }
  img { width: min(100%, 105mm * var(--ratio), 3.2 * var(--width)); box-shadow: none; print-color-adjust: exact; }
}"""


def render_page(albums: list[Album]) -> str:
    """HTML."""
    samples = {
        f"of-{number}" for album in albums if len(album.samples) > 1 for number in album.samples
    }
    return PAGE.substitute(
        title=text(", ".join(title(album) for album in albums)),
        style="\n".join([STYLE, *map(hide_others, sorted(samples))]),
        albums="\n".join(section(number, album) for number, album in enumerate(albums, start=1)),
    )


def hide_others(sample: str) -> str:
    """CSS: a sample is hidden while another is chosen. (A browser without :has() shows all.)"""
    return f"section:has(.choose-{sample}:not(:checked)) .{sample} {{ display: none; }}"


def text(value: str) -> str:
    """Text for anywhere in the page, attributes included: nothing in it is HTML."""
    return escape(one_line(value), quote=True)


def title(album: Album) -> str:
    """An album's name as a heading: "our_holiday" is "Our holiday"."""
    name = one_line(album.name.replace("_", " "))
    return (name[:1].upper() + name[1:]) or "A story"


def section(number: int, album: Album) -> str:
    several = len(album.samples) > 1
    parts = [
        f'<section aria-labelledby="album-{number}">',
        f'<h1 id="album-{number}" dir="auto">{text(title(album))}</h1>',
    ]
    if several:
        parts += [
            "<fieldset>",
            "<legend>Samples</legend>",
            '<span aria-hidden="true">Sample</span>',
        ]
        for place, sample in enumerate(album.samples):
            checked = "" if place else " checked"
            parts.append(
                f'<label><input type="radio" name="sample-of-{number}" class="choose-of-{sample}"'
                f' aria-label="Sample {sample}" autocomplete="off"{checked}><span>{sample}</span></label>'
            )
        parts.append("</fieldset>")
    for beat, path in enumerate(album.photos):
        parts += [
            "<figure>",
            photo(path, f"Photo {beat + 1} of {len(album.photos)}, {path.name}"),
            "<figcaption>",
        ]
        for sample, sentences in album.samples.items():
            which = f' class="of-{sample}"' if several else ""
            parts.append(f'<p dir="auto"{which}>{text(sentences[beat])}</p>')
        parts += ["</figcaption>", "</figure>"]
    return "\n".join([*parts, "</section>"])


def photo(path: Path, alt: str) -> str:
    """The img of a photo. The sentence is beside it already, so that `alt` says which photo it
    is."""
    try:
        image = load_photo(path, LONGEST)
    except BrokenPhoto as error:  # it could be read before the story was written
        cli.warn(f"{path}: cannot be read any more ({error}); the page lacks it")
        return f'<div class="lost">{text(alt)}</div>'
    image.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    image, (width, height), file = in_srgb(image), image.size, io.BytesIO()
    image.info.clear()  # comments, positions, cameras: what is in the picture is enough
    image.save(
        file,
        "JPEG",
        quality=QUALITY if max(image.size) > LONGEST // 2 else 95,
        optimize=True,
        progressive=True,
    )
    address = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
    size = f'width="{width}" height="{height}" style="--width: {width}px; --ratio: {width / height:.4f}"'
    return f'<img src="{address}" {size} alt="{text(alt)}">'


def in_srgb(image: Image.Image) -> Image.Image:
    """An RGB image in the colours that browsers take for granted: its own colour profile does not
    come along."""
    # no profile, a broken one, or one of other channels than these: as it is
    with suppress(Exception):
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        return ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"))
    return image
