"""The page: what visitors see."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gradio as gr
from PIL import Image

from .. import __version__
from ..doctor import is_installed
from ..errors import ConfigError
from .face import LARGEST_BRUSH, WIDEST_EDGE, Face
from .look import CSS, THEME
from .policy import Doorkeeper, Policy, guard
from .scene import LIGHTS, draw_scene
from .styles import Style, Styles

COLORS = [("of the style", "off"), ("of the photo", "luma"), ("of the photo's palette", "histogram")]
HELLO = "Paint photographs in the style of a network, in their own size. Move the line to compare."
DEFAULT = Policy()


def build(styles: Iterable[str] | None = None, policy: Policy = DEFAULT) -> gr.Blocks:
    """Build the page.

    Args:
        styles: bundled names, folders or Hub ids to offer; all bundled ones when None.
        policy: limits on what visitors may do.

    Returns:
        The page; :func:`launch` serves it.

    Raises:
        ConfigError: two styles of one name, or one that is too large.
        RepoError, CorruptFileError, WeightsError: a style cannot be loaded.
    """
    face = Face(Styles(styles, policy), policy)
    names = list(face.styles.offered)
    first = face.styles.get(names[0])
    with gr.Blocks(title="styleforge", analytics_enabled=False, delete_cache=(60, policy.keep)) as page:
        gr.Markdown(f"# styleforge\n{HELLO}", elem_id="title")
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=300):
                settings = _settings(face, names, first)
            with gr.Column(scale=5, min_width=320), gr.Tabs():
                with gr.Tab("Picture"):
                    photo = _one_picture(face, settings)
                with gr.Tab("Batch"):
                    _many_pictures(face, settings)
                with gr.Tab("Film"):
                    _film(face, settings)
                with gr.Tab("Inside"):
                    _inside(face, photo, settings)
        gr.Markdown(_small_print(policy), elem_id="small")
        gr.api(face.list_styles, api_name="list_styles")
    page.queue(max_size=policy.queue, default_concurrency_limit=2)
    guard(page, policy)
    return page


def launch(
    host: str | None = None,
    port: int | None = None,
    share: bool = False,
    styles: Iterable[str] | None = None,
    *,
    policy: Policy = DEFAULT,
    wait: bool = True,
) -> gr.Blocks:
    """Serve the page until Ctrl-C.

    Args:
        host: address to listen on; 127.0.0.1, or what GRADIO_SERVER_NAME says, when None.
        port: the first free one from 7860 on when None.
        share: also through a public address of gradio's, for 72 hours.
        styles: see :func:`build`.
        policy: limits on what visitors may do.
        wait: return at once when False.

    Returns:
        The page; `page.local_url` is where it is, and `page.close()` ends it.

    Raises: as :func:`build`, and
        ConfigError: the port is taken.
    """
    page = build(styles, policy)
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=share,
            theme=THEME,
            css=CSS,
            ssr_mode=False,
            footer_links=["api", "settings"],
            max_file_size=policy.upload_bytes,
            state_session_capacity=500,
            mcp_server=is_installed("mcp"),
            app_kwargs={"middleware": [(Doorkeeper, (), {"policy": policy})]},
            prevent_thread_lock=not wait,
        )
    except OSError as error:
        raise ConfigError("Cannot listen there", found=error, todo="Choose another port, or none.") from error
    return page


def _settings(face: Face, names: list[str], first: Style) -> dict[str, Any]:
    """The style and its settings, for all tabs; in the order in which the functions of :class:`Face` take them."""
    seen = gr.State([])
    gallery = _tiles(face.gallery(), "Styles", columns=2, selected_index=0)
    hub = face.policy.hub
    style = gr.Dropdown(
        names,
        value=first.name,
        allow_custom_value=hub,
        label="Style",
        info="Or type any style on the Hub: organisation/name" if hub else None,
    )
    facts = gr.Markdown(first.facts, elem_id="facts")
    reference = _picture("A painting to take the style from", visible=first.wants_reference)
    number = gr.Slider(0, max(1, first.count - 1), 0, step=1, label="Which of its styles", visible=first.count > 1)
    strength = gr.Slider(0, 1.5, 1.0, step=0.05, label="Strength", info="1 is the full style; beyond, it exaggerates")
    with gr.Accordion("Colors and brush", open=False):
        color = gr.Radio(COLORS, value="off", label="Colors")
        scale = gr.Slider(1, LARGEST_BRUSH, 1, step=0.25, label="Size of the brush")
    gallery.select(_picked, None, style, api_visibility="private", queue=False)
    style.change(
        face.choose,
        [style, seen],
        [facts, reference, number, gallery, seen],
        api_visibility="private",
        show_progress_on=facts,
        concurrency_id="styles",
    )
    return {
        "style": style,
        "strength": strength,
        "preserve_color": color,
        "style_scale": scale,
        "reference": reference,
        "number": number,
    }


def _tiles(pictures: list[tuple[Image.Image, str]], label: str, **options: Any) -> gr.Gallery:
    """Pictures to choose one of."""
    return gr.Gallery(
        pictures,
        label=label,
        fit_columns=False,
        allow_preview=False,
        object_fit="cover",
        height="auto",
        format="png",
        interactive=False,
        buttons=[],
        elem_classes="tiles",
        **options,
    )


def _picked(event: gr.SelectData) -> str:
    return event.value["caption"]


def _scene(event: gr.SelectData) -> Image.Image:
    return draw_scene(_picked(event))


def _picture(label: str, **options: Any) -> gr.Image:
    """A picture that stays as it was uploaded, until the library reads it."""
    return gr.Image(
        label=label,
        alt_text=label,
        type="filepath",
        image_mode=None,
        format="png",
        sources=["upload", "webcam", "clipboard"],
        height=320,
        **options,
    )


def _one_picture(face: Face, settings: dict[str, Any]) -> gr.Image:
    with gr.Row(equal_height=False):
        with gr.Column(min_width=300):
            photo = _picture("Photo")
            scenes = _tiles(
                [(draw_scene(name, (240, 160)), name) for name in LIGHTS], "Or one of these", elem_id="scenes"
            )
            scenes.select(_scene, None, photo, api_visibility="private", queue=False)
            with gr.Accordion("Only a part of it: paint where", open=False):
                editor = gr.ImageEditor(
                    label="Brush",
                    type="filepath",
                    format="png",
                    sources=[],
                    transforms=[],
                    layers=False,
                    brush=gr.Brush(default_size=40, colors=["#ff3366"], color_mode="fixed"),
                    height=360,
                )
                feather = gr.Slider(0, WIDEST_EDGE, 8, step=1, label="Soft edge, in pixels")
            button = gr.Button("Paint it", variant="primary", size="lg")
        with gr.Column(min_width=300):
            slider = gr.ImageSlider(
                label="Before and after",
                type="pil",
                format="png",
                interactive=False,
                max_height=640,
                buttons=["fullscreen"],
            )
            download = gr.DownloadButton("Download in full size (PNG)", interactive=False)
    editor.accept_blobs = None  # a way in for files of any number, which the page does not use
    photo.change(
        face.prepare,
        photo,
        [editor, slider, download],
        preprocess=False,
        api_visibility="private",
        show_progress="hidden",
    )
    inputs = [photo, *[settings[key] for key in ("style", "strength", "preserve_color", "style_scale")]]
    inputs += [editor, feather, settings["reference"], settings["number"]]
    done = button.click(face.stylize, inputs, [slider, download], **_endpoint("stylize", "picture"))
    done.success(lambda: gr.update(interactive=True), None, download, api_visibility="private", queue=False)
    return photo


def _many_pictures(face: Face, settings: dict[str, Any]) -> None:
    files = gr.File(label="Pictures, or a zip of them", file_count="multiple", file_types=["image", ".zip"], height=200)
    button = gr.Button("Paint them all", variant="primary", size="lg")
    result = gr.File(label="A zip of PNGs", interactive=False)
    told = gr.Markdown(label="What became of them")
    button.click(face.stylize_batch, [files, *settings.values()], [result, told], **_endpoint("stylize_batch", "long"))


def _film(face: Face, settings: dict[str, Any]) -> None:
    if not is_installed("av"):
        gr.Markdown("Films need PyAV, which is not installed here: `pip install 'styleforge[video]'`.")
        return
    with gr.Row(equal_height=False):
        with gr.Column(min_width=300):
            film = gr.Video(label="Film", sources=["upload"], height=320)
            button = gr.Button("Paint it", variant="primary", size="lg")
        result = gr.Video(label="In the style", interactive=False, height=320, buttons=["download"])
    button.click(face.stylize_film, [film, *settings.values()], result, **_endpoint("stylize_film", "long"))


def _inside(face: Face, photo: gr.Image, settings: dict[str, Any]) -> None:
    gr.Markdown("What the style does to the photo of the first tab, and what its network looks at. Bright is much.")
    button = gr.Button("Look", variant="primary", size="lg")
    maps = gr.Gallery(
        label="Maps",
        elem_classes="tiles",
        columns=2,
        object_fit="contain",
        height="auto",
        format="png",
        interactive=False,
    )
    inputs = [photo, settings["style"], settings["reference"], settings["number"]]
    button.click(face.explain, inputs, maps, **_endpoint("explain", "picture"))


def _endpoint(name: str, lane: str) -> dict[str, Any]:
    """One job at a time in each lane, so that a film does not hold up pictures."""
    # Without gradio's preprocessing, which would decode strangers' pictures before any policy has seen them.
    return {"api_name": name, "preprocess": False, "concurrency_id": lane, "concurrency_limit": 1}


def _small_print(policy: Policy) -> str:
    pictures = policy.pictures
    return (
        f"{', '.join(pictures.formats)} of up to {pictures.max_pixels / 1e6:g} megapixels and "
        f"{pictures.max_bytes // 2**20} MB; {policy.batch} at a time; films of {policy.film_frames} frames, "
        f"{policy.film_pixels / 1e6:.1f} megapixels each. Everything is deleted after {policy.keep // 60} minutes. "
        "What comes out is AI-generated: say so where you show it. "
        f"styleforge {__version__}, Apache-2.0."
    )
