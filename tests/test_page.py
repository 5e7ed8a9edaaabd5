"""The page: what is in it, what cannot get into it, and what a browser makes of it."""

import base64
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from PIL import Image, ImageCms, ImageStat

from utils.page import LONGEST, Album, in_srgb, render_page

HOSTILE = [
    "<script>top.ran = 1</script>",
    '"><img src=x onerror="top.ran = 1">',
    "' onload='top.ran = 1",
    "&lt;b&gt; &amp;",
    "</style><style>*{}",
    "--><!--",
    "\x00\x1b]0;x\x07",
    "javascript:top.ran=1",
    "$title ${style} {0} %s",
]


class Reader(HTMLParser):
    """What a page holds: its elements, attributes and texts."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.texts = [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attributes]

    def handle_data(self, data):
        self.texts.append(data)

    def values(self, name):
        return [value for _, found, value in self.attributes if found == name]


def check_alone(html):
    """The page is its own elements alone, and names no address but its photos' data. Returns its
    Reader."""
    found = Reader(html)
    assert set(found.tags) <= set(
        "html head meta title style body main section h1 fieldset legend span label input figure "
        "img figcaption p div footer".split()
    )
    assert not [
        name
        for _, name, _ in found.attributes
        if name.startswith("on") or name in ("href", "action", "data")
    ]
    assert found.tags.count("style") == 1 and not re.search(r"url\(|@import|https?:", html)
    assert all(
        re.fullmatch(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+", source)
        for source in found.values("src")
    )
    (policy,) = (value for value in found.values("content") if "default-src" in value)
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in policy
    return found


@pytest.fixture
def photos(tmp_path):
    paths = [tmp_path / f"{t}.jpg" for t in range(3)]
    for t, path in enumerate(paths):
        Image.new("RGB", (60 + t, 40), (80 * t, 100, 200)).save(path)
    return paths


def test_each_photo_is_there_once_with_the_sentences_of_all_samples(photos):
    told = {number: [f"sample {number}, beat {t}" for t in range(3)] for number in (1, 2, 7)}
    html = render_page(
        [Album("our_holiday", photos, told), Album("Rome 2024", photos[:1], {4: ["alone"]})]
    )
    found = check_alone(html)
    assert (
        found.tags.count("img") == 4
        and found.tags.count("p") == 10
        and found.tags.count("section") == 2
    )
    assert {s for sentences in told.values() for s in sentences} | {"alone"} <= set(found.texts)
    assert "Our holiday, Rome 2024" in found.texts and found.values("lang") == ["en"]
    assert found.values("alt")[:2] == ["Photo 1 of 3, 0.jpg", "Photo 2 of 3, 1.jpg"]
    assert (
        found.values("aria-label") == ["Sample 1", "Sample 2", "Sample 7"]
        and html.count(" checked>") == 1
    )
    photos[1].unlink()
    lacks = check_alone(render_page([Album("a", photos, {1: ["x", "y", "z"]})]))
    assert (
        lacks.tags.count("img") == 2 and "Photo 2 of 3, 1.jpg" in lacks.texts and "y" in lacks.texts
    )


def test_a_photo_is_upright_scaled_and_bare(tmp_path):
    image = Image.new("RGB", (2400, 1200), "blue")
    image.paste("red", (0, 0, 1200, 1200))
    exif = image.getexif()
    # turned a quarter to the right
    exif[0x0112], exif[0x010F], exif.get_ifd(0x8825)[1] = (6, "a camera", "N")
    path, profile = (
        tmp_path / "x.jpg",
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    )
    image.save(path, exif=exif, comment=b"a secret", icc_profile=profile)
    (source,) = check_alone(render_page([Album("a", [path], {1: ["x"]})])).values("src")
    data = base64.b64decode(source.split(",")[1])
    shown = Image.open(io.BytesIO(data))
    assert (
        shown.size == (500, LONGEST)
        and not shown.getexif()
        and not {"comment", "icc_profile"} & set(shown.info)
    )
    assert b"secret" not in data and b"camera" not in data and len(data) < 20_000
    assert shown.getpixel((250, 200))[0] > 200 and shown.getpixel((250, 800))[2] > 200


def test_colours_come_without_their_profile():
    for broken in (b"", b"not a profile"):
        image = Image.new("RGB", (2, 2), (10, 200, 30))
        image.info["icc_profile"] = broken
        assert in_srgb(image).getpixel((0, 0)) == (10, 200, 30)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # what it calls red is green
    for old, new in ((b"rXYZ", b"...."), (b"gXYZ", b"rXYZ"), (b"....", b"gXYZ")):
        profile = profile.replace(old, new)
    image.info["icc_profile"] = profile
    red, green, _ = in_srgb(image).getpixel((0, 0))
    assert red > 190 and green < 20


def test_nothing_that_was_not_written_here_is_html(photos, tmp_path):
    names = [tmp_path / f"{text.replace('/', ':')}.jpg".replace("\x00", "") for text in HOSTILE]
    for name in names:
        shutil.copy(photos[0], name)
    albums = [
        Album(text, names, {1: HOSTILE, 2: HOSTILE[::-1]})
        for text in [*HOSTILE, "half \udcff", "", "_"]
    ]
    html = render_page(albums)
    html.encode()
    found, plain = (
        check_alone(html),
        check_alone(render_page([Album("a", photos, {1: [""] * 3, 2: [""] * 3})])),
    )
    assert set(found.tags) == set(plain.tags)
    assert {(tag, name) for tag, name, _ in found.attributes} == {
        (tag, name) for tag, name, _ in plain.attributes
    }
    for text in HOSTILE:
        assert text.replace("\x00", "") in "".join(found.texts).replace("\x00", "").replace(
            "\ufffd", ""
        )


def test_hostile_names_and_words_from_a_folder(
    script, saved_model, tokenizer, photos, tmp_path, monkeypatch
):
    shutil.copytree(saved_model, tmp_path / "model")
    folder = tmp_path / HOSTILE[1]
    folder.mkdir()
    shutil.copy(photos[0], folder / "<img src=x onerror=top.ran=1>.jpg")
    shutil.copy(photos[1], folder / '"><script>.jpg')
    monkeypatch.setattr(
        type(tokenizer), "batch_decode", lambda self, ids: [HOSTILE[0] + "\x1b[31m" for _ in ids]
    )
    arguments = [
        folder,
        "--checkpoint",
        "model",
        "--max_new_tokens",
        4,
        "--num_samples",
        2,
        "--html",
        "page.html",
    ]
    done = script("generate.py", *arguments, cwd=tmp_path)
    assert (
        done.returncode == 0
        and "as a page -> page.html" in done.stderr
        and "\x1b" not in done.stdout
    )
    found = check_alone((tmp_path / "page.html").read_text())
    assert found.tags.count("img") == 2 and any(
        "<img src=x onerror=top.ran=1>.jpg" in alt for alt in found.values("alt")
    )
    assert sum(text.startswith("<script>") for text in found.texts) == 4


# ------------------------------------------------------------------------------------- in a browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTHS = {"desktop": 1280, "phone": 390}
FRAMES = """<!DOCTYPE html><meta charset="utf-8"><body style="margin: 0; display: flex">
<iframe id="desktop" src="page.html" style="border: 0; width: 1280px; height: 800px"></iframe>
<iframe id="phone" src="page.html" style="border: 0; width: 390px; height: 800px"></iframe>
<iframe id="unescaped" src="unescaped.html" hidden></iframe>
<script>
const visible = page => [...page.querySelectorAll("p")].filter(p => p.getClientRects().length)
const shown = page => visible(page).map(p => p.textContent)
const box = (page, name) => {
  const b = page.querySelector(name).getBoundingClientRect()
  return [b.x, b.y, b.width]
}
onload = () => {
  const found = { ran: window.ran === undefined ? "nothing" : "a script" }
  for (const name of ["desktop", "phone"]) {
    const page = document.getElementById(name).contentDocument, before = shown(page)
    found[name] = { before, photo: box(page, "img"), words: box(page, "figcaption") }
    page.querySelectorAll("input")[1].focus()  // as the Tab key does, where it is not hidden
    found[name].focused = page.activeElement.getAttribute("aria-label")
    page.activeElement.click()
    found[name].after = shown(page)
    found[name].needs = page.documentElement.scrollWidth
    page.querySelectorAll("input")[0].click()
  }
  const script = document.createElement("script")
  script.type = "application/json"
  script.textContent = JSON.stringify(found)
  document.body.append(script)
}
</script>"""


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    return found or pytest.skip(f"none of {', '.join(BROWSERS)} is installed")


def test_a_browser_shows_it(browser, photos, tmp_path):
    told = {
        1: ["First, a day at the sea.", "It rained.", "We went home."],
        2: ["Second.", "Sun.", "W" * 200],
    }
    html = render_page([Album("our_holiday", photos, told)])
    (tmp_path / "page.html").write_text(html)
    attack = "<script>top.ran = 1</script><img src=x onerror='top.ran = 1'>"
    (tmp_path / "unescaped.html").write_text(html.replace("It rained.", attack))
    (tmp_path / "frames.html").write_text(FRAMES)
    light, dark = {}, {}
    for number, means in enumerate((dark, light)):
        picture = tmp_path / f"{number}.png"
        done = subprocess.run(
            [
                browser,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                "--no-first-run",
                "--allow-file-access-from-files",
                f"--user-data-dir={tmp_path / 'profile'}",
                "--window-size=1670,800",
                f"--blink-settings=preferredColorScheme={number}",
                "--dump-dom",
                f"--screenshot={picture}",
                (tmp_path / "frames.html").as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=60,
        )
        found = json.loads(
            re.search(r'<script type="application/json">(.*?)</script>', done.stdout, re.S)[1]
        )
        assert found["ran"] == "nothing"
        shot = Image.open(picture).convert("L")
        assert shot.size == (1670, 800)
        for name, width in WIDTHS.items():
            seen, left = found[name], 0 if name == "desktop" else 1280
            assert seen["before"] == told[1] and seen["after"] == told[2] and seen["needs"] == width
            assert seen["focused"] == "Sample 2"
            (photo_x, photo_y, photo_width), (words_x, words_y, _) = seen["photo"], seen["words"]
            if name == "desktop":
                assert words_x > photo_x + photo_width
            else:
                assert words_y > photo_y and abs(words_x - 20) < 1
            part = ImageStat.Stat(shot.crop((left, 0, left + width, 800)))
            means[name] = part.mean[0]
            assert part.stddev[0] > 5
    assert all(dark[name] < 80 < 180 < light[name] for name in WIDTHS)
