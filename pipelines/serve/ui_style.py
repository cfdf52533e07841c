"""How the chat page looks: system fonts and colours of its own, light and dark, from 360 px up."""

from __future__ import annotations

import gradio as gr

FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
MONO_FONTS = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def theme() -> gr.themes.Base:
    """Quiet greys with one accent; no font is fetched."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_lg,
        font=[gr.themes.Font(name) for name in FONTS],
        font_mono=[gr.themes.Font(name) for name in MONO_FONTS],
    ).set(
        body_background_fill="#f6f7f9",
        body_background_fill_dark="#0d1117",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        block_background_fill="#ffffff",
        block_background_fill_dark="#151b23",
        block_border_width="1px",
        block_shadow="none",
        block_shadow_dark="none",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_text_color="#ffffff",
    )


HEAD = (
    '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="referrer" content="no-referrer">'
)

CSS = """
.gradio-container { padding: 0 !important; overflow: clip visible !important; }
.gradio-container > main, .gradio-container .main {
  width: 100% !important; max-width: 1180px !important; margin: 0 auto !important; padding: 12px 16px 16px !important;
}
footer { display: none !important; }
.lv-plain, .lv-plain .html-container, .lv-plain .prose { padding: 0 !important; margin: 0 !important; }
.lv-plain { overflow: visible !important; }
#lv-head { display: flex; align-items: center; gap: 10px; padding: 2px; }
#lv-head svg { flex: none; }
#lv-head h1 { font-size: 1.15rem; font-weight: 650; letter-spacing: -0.01em; margin: 0; line-height: 1.2; }
#lv-head p { margin: 1px 0 0; font-size: 0.82rem; color: var(--body-text-color-subdued); }
#lv-work { gap: 16px; align-items: stretch; }
#lv-side { gap: 12px; }

#lv-drop { border-radius: 12px; min-height: 0; }
#lv-drop button .wrap { min-height: 120px; padding: 16px; font-size: 0; line-height: 1.4; }
#lv-drop button .wrap .or { display: none; }
#lv-drop button .wrap::after {
  content: "Drop a video or picture here, or click to choose one"; font-size: 0.92rem; text-align: center;
  color: var(--body-text-color-subdued);
}
#lv-drop .file-preview-holder { overflow: hidden; }
#lv-drop table, #lv-drop tr, #lv-drop td { margin: 0 !important; padding: 0 !important; border: 0 !important; }
#lv-drop .file-preview td { padding: 8px 12px !important; }
#lv-drop .file-preview, #lv-drop .file-preview * { background: transparent !important; }
#lv-drop .icon-button-wrapper { top: 6px; right: 6px; border: 0; }
#lv-drop .file-preview-holder { padding: 4px 40px 4px 4px !important; margin: 0 !important; }
#lv-drop .download a { color: var(--body-text-color-subdued); pointer-events: none; }

#lv-media video, #lv-media img.lv-picture {
  display: block; width: 100%; max-height: 42vh; object-fit: contain; background: #05070a; border-radius: 12px;
}
.lv-strip-title {
  display: flex; flex-wrap: wrap; justify-content: space-between; gap: 2px 10px; font-size: 0.84rem; margin-bottom: 6px;
}
.lv-strip-title b { font-weight: 600; }
.lv-strip-title span { color: var(--body-text-color-subdued); }
.lv-strip {
  display: flex; gap: 8px; overflow-x: auto; padding: 2px 2px 10px; scroll-snap-type: x proximity;
  scrollbar-width: thin;
}
.lv-strip button {
  all: unset; flex: none; cursor: pointer; scroll-snap-align: start; position: relative; border-radius: 9px;
  overflow: hidden; line-height: 0; box-shadow: 0 0 0 1px var(--border-color-primary);
}
.lv-strip button:hover, .lv-strip button:focus-visible { box-shadow: 0 0 0 2px var(--primary-500); }
.lv-strip img { height: 84px; width: auto; min-width: 48px; display: block; object-fit: cover; margin: 0; }
.lv-strip time {
  position: absolute; right: 4px; bottom: 4px; font: 600 11px/1 ui-monospace, Menlo, Consolas, monospace; color: #fff;
  background: rgba(5, 7, 10, .72); padding: 3px 5px; border-radius: 5px;
}

.lv-facts { font-size: 0.8rem; color: var(--body-text-color-subdued); }
.lv-warning { font-size: 0.8rem; color: #92610a; padding-top: 4px; }
.dark .lv-warning { color: #e3b341; }
.lv-note {
  font-size: 0.84rem; color: var(--body-text-color-subdued); padding: 10px 12px; border-radius: 10px;
  border: 1px dashed var(--border-color-primary);
}
.lv-busy { display: flex; align-items: center; gap: 10px; }
.lv-busy::before {
  content: ""; width: 15px; height: 15px; border-radius: 50%; flex: none; animation: lv-turn .8s linear infinite;
  background: conic-gradient(transparent 20%, #14b8a6); mask: radial-gradient(farthest-side, #0000 62%, #000 66%);
}
@keyframes lv-turn { to { transform: rotate(1turn); } }
@media (prefers-reduced-motion: reduce) { .lv-busy::before { animation-duration: 4s; } }
.lv-error {
  display: flex; gap: 10px; padding: 11px 13px; border-radius: 10px; font-size: 0.88rem; line-height: 1.4;
  color: #7a1f1f; background: #fdeeee; border: 1px solid #f3c1c1; overflow-wrap: anywhere;
}
.lv-error b { display: block; font-weight: 600; color: inherit; }
.lv-error::before {
  content: "!"; flex: none; width: 19px; height: 19px; border-radius: 50%; background: #c93636; color: #fff;
  font-weight: 700; font-size: 13px; text-align: center; line-height: 19px;
}
.dark .lv-error { color: #ffb4b4; background: #2b1416; border-color: #5c2327; }

#lv-chat { border-radius: 14px; }
#lv-chat .message-buttons-right, #lv-chat .icon-button-wrapper.top-panel { display: none; }
#lv-chat .examples { display: flex; flex-direction: column; width: min(100%, 26rem); margin: 0 auto; }
#lv-chat .example { padding: 10px 14px; width: 100%; }
.lv-empty { text-align: center; max-width: 30rem; margin: 0 auto; }
.lv-empty b { display: block; font-size: 1.05rem; font-weight: 600; margin-bottom: 4px; }
.lv-empty span { color: var(--body-text-color-subdued); font-size: 0.9rem; }
#lv-ask { border-radius: 14px; padding: 6px 8px; }
#lv-ask textarea {
  font-size: 16px !important; background: transparent !important; box-shadow: none !important; border: 0;
}
#lv-ask .submit-button, #lv-ask .stop-button { background: var(--primary-600); color: #fff; }
#lv-ask .submit-button svg, #lv-ask .stop-button svg { color: #fff; }
#lv-below { align-items: center; gap: 12px; flex-wrap: nowrap; }
#lv-restart {
  flex: none; width: auto; min-width: 0; background: transparent; border: 1px solid var(--border-color-primary);
}

@media (max-width: 760px) {
  .gradio-container > main, .gradio-container .main { padding: 8px 10px 12px !important; }
  #lv-work { flex-direction: column; gap: 10px; }
  #lv-work > * { min-width: 0 !important; width: 100%; }
  #lv-head p { display: none; }
  #lv-head svg { width: 24px; height: 24px; }
  #lv-side { gap: 8px; }
  #lv-media video, #lv-media img.lv-picture { max-height: 26vh; }
  #lv-drop button .wrap { min-height: 84px; }
  #lv-drop button .wrap::after { content: "Choose a video or picture"; }
  .lv-strip img { height: 60px; }
  .form:has(#lv-ask), #lv-ask:not(.form *) { position: sticky; bottom: 8px; z-index: 20; }
  #lv-problem { position: sticky !important; bottom: 62px; z-index: 21; }
  #lv-chat { height: 46vh !important; min-height: 260px !important; }
  #lv-chat .placeholder-content { padding: 8px; }
}
"""
