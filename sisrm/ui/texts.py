"""Every word that a visitor reads, in English and Chinese.

Fixed texts (labels, hints) are translated by Gradio in the browser; texts made on the server (results, progress) follow the
request's Accept-Language. Class names stay English in both: they are the vocabulary that the text encoder was trained on.
"""

from __future__ import annotations

from sisrm.ui.texts_of_parts import PARTS

TEXTS: dict[str, dict[str, str]] = {
    "en": {
        **PARTS["en"],
        "tagline": "Makes a small photo four times larger: it finds what is in the photo, and draws detail that suits each thing.",
        "photo": "Photo",
        "examples": "Or try one of these",
        "run": "Enlarge",
        "settings": "Settings",
        "steps": "Steps",
        "steps_info": "The default suits the weights; more steps change the picture a little and take longer.",
        "guidance_scale": "Guidance scale",
        "guidance_scale_info": "How strongly the labels steer the picture; 1: not beyond what they say by themselves, and twice as fast.",
        "top_k": "Labels (top-k)",
        "top_k_info": "How many of the things found go into the prompt, at most; doubtful ones are left out.",
        "mff": "Mask feature fusion (MFF)",
        "mff_info": "Local control only where the labels' regions are; off: everywhere.",
        "labels": "Your own labels",
        "labels_info": "Empty: the model's own. Otherwise these replace them.",
        "seed": "Seed",
        "seed_info": "The same seed and settings give the same picture.",
        "randomise": "New seed every time",
        "download": "Download",
        "details": "Link and all details of this run (JSON)",
        "title": "{steps} steps, guidance {guidance}, seed {seed}",
        "without": "{title}, without {parts}",
        "example": "An example, made here: {line}. Choose a photo to make your own.",
        "made": "{width} x {height} → {out_width} x {out_height} pixels in {seconds:.1f} s, seed {seed}",
        "smaller_tiles": "Memory was short, so the picture was made in smaller tiles.",
        "first_frame": "The file holds several pictures; only the first one was used.",
        "looking": "Finding out what is in the photo",
        "step": "Step {step} of {total}",
        "finishing": "Finishing the picture",
        "away": "On the GPU. It shows nothing until it is done; cancelled, it still runs to its end.",
        "zero_gpu": ". ZeroGPU lends the GPU for one call at a time: no preview, and a cancelled call still runs to its end",
        "runtime": "Preset {preset} on {device}, {dtype}; attention: {attention}. Weights: {weights}",
        "trained": ". Trained parts of SISRM: {parts}.",
        "untrained": ". No part of SISRM is trained yet: what you see comes from the public weights alone.",
        "fallback": "**The preset {preset} cannot be used, so {running} runs in its place.** {reason}",
        "part_sca": "segmentation cross-attention",
        "part_controlnet": "ControlNet",
        "part_image_encoder": "image encoder",
        "no_photo": "Choose a photo first: drop one in, paste one, or click an example.",
        "no_room": "The server has no room for another picture at the moment. Please try again in a few minutes.",
        "disk_full": "The server's disk is full, so the picture could not be kept. Please try again later.",
        "failed": "The server could not finish this picture. Please try again; if it happens again, try a smaller photo.",
        "preset": "Preset",
        "preset_info": "Faithful stays close to the photo, Vivid draws more; sets detail, guidance and start.",
        "faithful": "Faithful",
        "balanced": "Balanced",
        "vivid": "Vivid",
        "detail_strength": "Detail",
        "detail_strength_info": "How much of the detail that the photo lacks is drawn; 1: as the model made it, above: more, 0: none.",
        "dice": "New seed",
        "output_scale": "Enlarge by",
        "output_scale_info": "2 and 3 are the result at 4, made smaller.",
        "format": "Download as",
        "advanced": "Advanced",
        "start_strength": "Start of denoising",
        "start_strength_info": "Lower starts nearer to the photo, higher leaves more to the model.",
        "controlnet_conditioning_scale": "Local control strength",
        "controlnet_conditioning_scale_info": "Of the ControlNet, where the mask M is; 0: none.",
        "color_fix": "Colour correction",
        "color_fix_info": "wavelet: the photo's colours, place by place; adain: only its overall tone, single things may be tinted; "
        "none: the model's colours, which may be off.",
        "color_fix_strength": "Colour correction strength",
        "color_fix_strength_info": "1: corrected in full; 0: as with none.",
        "tile_size": "Tile size",
        "tile_size_info": "Larger photos are worked on in tiles of this side, in pixels; smaller needs less memory.",
        "sca": "Segmentation cross-attention (SCA)",
        "sca_info": "Lets the model attend to the regions found.",
        "sape": "Segmentation-aware prompt (SAPE)",
        "sape_info": "Labels and region embedding from the photo; off: neither.",
        "cancel": "Cancel",
        "cancelled": "Cancelled.",
        "waiting": "Waiting for the model",
        "left": "about {seconds} s left",
        "preview": "Preview after step {step}",
        "progress": "Progress",
        "sample": "Try a patch",
        "sample_title": "Patch: {title}",
        "sample_made": "A patch of the photo: {line}. Click on the photo to choose another place.",
        "pointed": "Try a patch will take the place at {x}% from the left and {y}% from the top.",
        "restored": "Settings, seed and labels were restored from this result. They hold for the photo chosen next too; its original "
        "gives the same picture.",
        "both": "Before and after",
        "link": "Link to these settings",
        "link_info": "Carries the settings and the seed, never the photo.",
        "modules": "What each part of the method does",
        "modules_info": "The same photo and seed with MFF, SCA and SAPE taken out in turn; of a large photo the patch in its middle.",
        "compare": "Compare with and without",
        "full": "Full model",
        "without_mff": "Without MFF",
        "without_sca": "Without SCA",
        "without_sape": "Without SAPE",
        "differs": "differs by {levels} of 255 levels on average",
        "variant": "{number} of {total}, {name}: ",
    },
    "zh": {
        **PARTS["zh"],
        "tagline": "把小照片放大四倍：先看懂照片里有什么，再为每样东西画出合适的细节。",
        "photo": "照片",
        "examples": "或者试试这些",
        "run": "放大",
        "settings": "设置",
        "steps": "步数",
        "steps_info": "默认值适合这套权重；步数更多时画面略有变化，用时更长。",
        "guidance_scale": "引导强度",
        "guidance_scale_info": "标签对画面的影响有多强；1 表示不额外加强，速度也快一倍。",
        "top_k": "标签数 (top-k)",
        "top_k_info": "识别出的内容中，最多有多少个写入提示词；把握不大的不写入。",
        "mff": "掩码特征融合 (MFF)",
        "mff_info": "只在标签所在区域做局部控制；关闭后作用于全图。",
        "labels": "自选标签",
        "labels_info": "留空则用模型识别的标签；选择后将取代它们。",
        "seed": "随机种子",
        "seed_info": "种子和设置相同，结果就相同。",
        "randomise": "每次换新种子",
        "download": "下载",
        "details": "链接及本次运行的全部细节 (JSON)",
        "title": "{steps} 步，引导 {guidance}，种子 {seed}",
        "without": "{title}，无 {parts}",
        "example": "示例（由本机生成）：{line}。选择照片即可生成您自己的结果。",
        "made": "{width} x {height} → {out_width} x {out_height} 像素，用时 {seconds:.1f} 秒，种子 {seed}",
        "smaller_tiles": "内存不足，已改用更小的分块完成。",
        "first_frame": "文件包含多幅图像，只使用了第一幅。",
        "looking": "正在识别照片内容",
        "step": "第 {step} 步，共 {total} 步",
        "finishing": "正在完成图像",
        "away": "正在 GPU 上运行，完成前没有预览；取消后本次调用仍会运行到结束。",
        "zero_gpu": "。ZeroGPU 按次借用 GPU：没有预览，取消后本次调用仍会运行到结束",
        "runtime": "预设 {preset}，运行于 {device}，{dtype}；注意力：{attention}。权重：{weights}",
        "trained": "。SISRM 中已训练的部分：{parts}。",
        "untrained": "。SISRM 的各部分均未训练，结果仅来自公开权重。",
        "fallback": "**预设 {preset} 无法使用，现以 {running} 代替运行。** {reason}",
        "part_sca": "分割交叉注意力",
        "part_controlnet": "ControlNet",
        "part_image_encoder": "图像编码器",
        "no_photo": "请先选择照片：拖入、粘贴，或点选一个示例。",
        "no_room": "服务器暂时没有空间存放新的图像。请过几分钟再试。",
        "disk_full": "服务器磁盘已满，无法保存图像。请稍后再试。",
        "failed": "服务器未能完成这张图。请重试；若仍失败，请换一张小一点的照片。",
        "preset": "风格",
        "preset_info": "忠实：贴近原图；鲜明：补画更多。会设定细节、引导强度和起点。",
        "faithful": "忠实",
        "balanced": "均衡",
        "vivid": "鲜明",
        "detail_strength": "细节",
        "detail_strength_info": "补画多少原图缺少的细节；1 表示模型生成的全部细节，大于 1 会夸张，0 则没有。",
        "dice": "换种子",
        "output_scale": "放大倍数",
        "output_scale_info": "2 倍和 3 倍由 4 倍结果缩小而成。",
        "format": "下载格式",
        "advanced": "高级",
        "start_strength": "去噪起点",
        "start_strength_info": "越低越贴近原图，越高越依靠模型。",
        "controlnet_conditioning_scale": "局部控制强度",
        "controlnet_conditioning_scale_info": "掩码 M 内 ControlNet 的强度；0 表示没有。",
        "color_fix": "色彩校正",
        "color_fix_info": "wavelet：逐处采用原图的颜色；adain：只保留整体色调，个别物体可能偏色；none：模型的颜色，可能失真。",
        "color_fix_strength": "色彩校正强度",
        "color_fix_strength_info": "1 表示完全校正；0 与 none 相同。",
        "tile_size": "分块大小",
        "tile_size_info": "较大的照片按此边长（像素）分块处理；越小越省内存。",
        "sca": "分割交叉注意力 (SCA)",
        "sca_info": "让模型关注识别出的区域。",
        "sape": "分割感知提示 (SAPE)",
        "sape_info": "从照片得到标签和区域嵌入；关闭后两者都没有。",
        "cancel": "取消",
        "cancelled": "已取消。",
        "waiting": "正在等待模型",
        "left": "还需约 {seconds} 秒",
        "preview": "第 {step} 步后的预览",
        "progress": "进度",
        "sample": "先试一小块",
        "sample_title": "局部：{title}",
        "sample_made": "照片的一小块：{line}。点击照片可选择别处。",
        "pointed": "“先试一小块”将取距左 {x}%、距上 {y}% 处。",
        "restored": "已从这张结果图恢复设置、种子和标签；接着选择其原图，即可得到同样的结果。",
        "both": "前后对比图",
        "link": "这些设置的链接",
        "link_info": "只含设置和种子，绝不含照片。",
        "modules": "方法的各部分起什么作用",
        "modules_info": "同一照片和种子，依次去掉 MFF、SCA、SAPE；照片较大时取中间一块。",
        "compare": "对比有无各部分",
        "full": "完整模型",
        "without_mff": "无 MFF",
        "without_sca": "无 SCA",
        "without_sape": "无 SAPE",
        "differs": "平均相差 {levels} 级（共 255 级）",
        "variant": "第 {number} 个，共 {total} 个，{name}：",
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
