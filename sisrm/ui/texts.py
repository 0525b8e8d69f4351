"""Every word that a visitor reads, in English and Chinese.

Fixed texts (labels, hints) are translated by Gradio in the browser; texts made on the server (results, progress) follow the
request's Accept-Language. Class names stay English in both: they are the vocabulary that the text encoder was trained on.
"""

from __future__ import annotations

TEXTS: dict[str, dict[str, str]] = {
    "en": {
        "tagline": "Makes a small photo four times larger: it finds what is in the photo, and draws detail that suits each thing.",
        "photo": "Photo",
        "examples": "Or try one of these",
        "run": "Enlarge 4x",
        "settings": "Settings",
        "steps": "Steps",
        "steps_info": "More steps: more detail, more time.",
        "guidance": "Guidance scale",
        "guidance_info": "How strongly the labels steer the picture; 1: not beyond what they say by themselves, and twice as fast.",
        "top_k": "Labels (top-k)",
        "top_k_info": "How many of the things found go into the prompt, at most; doubtful ones are left out.",
        "mff": "Mask feature fusion (MFF)",
        "mff_info": "Local control only where the labels' regions are; off: everywhere.",
        "labels": "Your own labels",
        "labels_info": "Empty: the model's own. Otherwise these replace them.",
        "seed": "Seed",
        "seed_info": "The same seed and settings give the same picture.",
        "randomise": "New seed every time",
        "download": "Download PNG",
        "regions": "Regions",
        "details": "All details of this run (JSON)",
        "legend": "Area of each region",
        "more_regions": "{count} smaller regions",
        "prompt": "Label prompt",
        "given_label": "yours",
        "unsure": "(unsure)",
        "made": "{width} x {height} → {out_width} x {out_height} pixels in {seconds:.1f} s, seed {seed}",
        "smaller_tiles": "Memory was short, so the picture was made in smaller tiles.",
        "first_frame": "The file holds several pictures; only the first one was used.",
        "reading": "Reading the photo",
        "looking": "Finding out what is in the photo",
        "step": "Step {step} of {total}",
        "finishing": "Finishing the picture",
        "runtime": "Preset {preset} on {device}, {dtype}; attention: {attention}. Weights: {weights}",
        "trained": ". Trained parts of SISRM: {parts}.",
        "untrained": ". No part of SISRM is trained yet: what you see comes from the public weights alone.",
        "fallback": "**The preset {preset} cannot be used, so {running} runs in its place.** {reason}",
        "part_sca": "segmentation cross-attention",
        "part_controlnet": "ControlNet",
        "part_image_encoder": "image encoder",
        "no_photo": "Choose a photo first: drop one in, paste one, or click an example.",
        "failed": "The server could not finish this picture. Please try again; if it happens again, try a smaller photo.",
        "viewer_empty": "Your picture appears here. Drag the line to compare, zoom in to look closely.",
        "viewer_before": "Before (bicubic)",
        "viewer_after": "SISRM",
        "viewer_split": "Where before ends and after begins",
        "viewer_in": "Zoom in",
        "viewer_out": "Zoom out",
        "viewer_fit": "Fit",
        "viewer_actual": "1:1",
        "viewer_hint": "Drag the line · buttons, double click, pinch or Ctrl + wheel to zoom · drag to move",
    },
    "zh": {
        "tagline": "把小照片放大四倍：先看懂照片里有什么，再为每样东西画出合适的细节。",
        "photo": "照片",
        "examples": "或者试试这些",
        "run": "放大 4 倍",
        "settings": "设置",
        "steps": "步数",
        "steps_info": "步数越多，细节越多，用时越长。",
        "guidance": "引导强度",
        "guidance_info": "标签对画面的影响有多强；1 表示不额外加强，速度也快一倍。",
        "top_k": "标签数 (top-k)",
        "top_k_info": "识别出的内容中，最多有多少个写入提示词；把握不大的不写入。",
        "mff": "掩码特征融合 (MFF)",
        "mff_info": "只在标签所在区域做局部控制；关闭后作用于全图。",
        "labels": "自选标签",
        "labels_info": "留空则用模型识别的标签；选择后将取代它们。",
        "seed": "随机种子",
        "seed_info": "种子和设置相同，结果就相同。",
        "randomise": "每次换新种子",
        "download": "下载 PNG",
        "regions": "区域",
        "details": "本次运行的全部细节 (JSON)",
        "legend": "各区域所占面积",
        "more_regions": "另有 {count} 个较小的区域",
        "prompt": "标签提示词",
        "given_label": "自选",
        "unsure": "（不确定）",
        "made": "{width} x {height} → {out_width} x {out_height} 像素，用时 {seconds:.1f} 秒，种子 {seed}",
        "smaller_tiles": "内存不足，已改用更小的分块完成。",
        "first_frame": "文件包含多幅图像，只使用了第一幅。",
        "reading": "正在读取照片",
        "looking": "正在识别照片内容",
        "step": "第 {step} 步，共 {total} 步",
        "finishing": "正在完成图像",
        "runtime": "预设 {preset}，运行于 {device}，{dtype}；注意力：{attention}。权重：{weights}",
        "trained": "。SISRM 中已训练的部分：{parts}。",
        "untrained": "。SISRM 的各部分均未训练，结果仅来自公开权重。",
        "fallback": "**预设 {preset} 无法使用，现以 {running} 代替运行。** {reason}",
        "part_sca": "分割交叉注意力",
        "part_controlnet": "ControlNet",
        "part_image_encoder": "图像编码器",
        "no_photo": "请先选择照片：拖入、粘贴，或点选一个示例。",
        "failed": "服务器未能完成这张图。请重试；若仍失败，请换一张小一点的照片。",
        "viewer_empty": "结果会显示在这里。拖动分割线对比，放大查看细节。",
        "viewer_before": "放大前（双三次）",
        "viewer_after": "SISRM",
        "viewer_split": "前后对比的分割位置",
        "viewer_in": "放大",
        "viewer_out": "缩小",
        "viewer_fit": "适合窗口",
        "viewer_actual": "1:1",
        "viewer_hint": "拖动分割线 · 按钮、双击、双指或 Ctrl + 滚轮缩放 · 拖动平移",
    },
}


def language(accept_language: str | None) -> str:
    """The first language of an Accept-Language header that there are texts in.

    Args:
        accept_language: such as "zh-CN,zh;q=0.9,en;q=0.8"; None or nonsense means English.

    Returns:
        "en" or "zh".
    """
    wanted = []
    for position, part in enumerate((accept_language or "")[:200].split(",")):
        tag, _, quality = part.strip().lower().partition(";q=")
        try:
            wanted.append((-float(quality or 1), position, tag.split("-")[0]))
        except ValueError:
            continue
    return next((tag for _, _, tag in sorted(wanted) if tag in TEXTS), "en")


def text(key: str, lang: str = "en", **values: object) -> str:
    """The text `key` in a language, with its placeholders filled in.

    Args:
        key: a key of `TEXTS`.
        lang: "en" or "zh".
        values: the placeholders' values.
    """
    return TEXTS[lang][key].format(**values) if values else TEXTS[lang][key]
