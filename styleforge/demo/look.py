"""How the page looks: fonts that are there already (nothing is fetched from elsewhere), and colors with contrast."""

import gradio as gr

FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
THEME = gr.themes.Base(
    primary_hue=gr.themes.colors.teal,
    neutral_hue=gr.themes.colors.stone,
    radius_size=gr.themes.sizes.radius_lg,
    font=FONT,
    font_mono=("ui-monospace", "monospace"),
).set(
    body_background_fill="#faf8f4",
    body_background_fill_dark="*neutral_950",
    block_shadow="none",
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_400",
    block_info_text_color="*neutral_600",
    block_info_text_color_dark="*neutral_400",
    block_label_text_color="*neutral_700",
    block_label_text_color_dark="*neutral_300",
    block_title_text_color="*neutral_800",
    block_title_text_color_dark="*neutral_200",
    color_accent="*primary_700",
    border_color_accent="*primary_700",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover_dark="*primary_800",
    button_primary_text_color="white",
    slider_color="*primary_700",
    slider_color_dark="*primary_500",
)
CSS = """
.gradio-container { max-width: 1320px !important; margin: 0 auto !important; }
#title h1 { font-size: 1.9rem; letter-spacing: -0.02em; margin: 0.4rem 0 0.1rem; }
#title p { margin: 0; }
#title p, #facts p, #small p { color: var(--body-text-color-subdued); }
#facts p, #small p { font-size: 0.85rem; }
.dark { --color-accent: var(--primary-400); --border-color-accent: var(--primary-400); }
.tiles .grid-wrap { min-height: 0; max-height: none; height: auto; }
#scenes .grid-container { grid-template-columns: repeat(auto-fill, minmax(88px, 1fr)) !important; }
.tiles .caption-label { font-size: 0.75rem; max-width: 100%; padding: 0.1rem 0.4rem; }
"""
