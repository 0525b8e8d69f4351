"""What happens when a visitor does something: which handler answers, and what is shown then."""

from __future__ import annotations

import asyncio
import html
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import gradio as gr

from sisrm.errors import Interrupted
from sisrm.ui.card import card, note
from sisrm.ui.choosing import Choosing
from sisrm.ui.crops import preview
from sisrm.ui.endpoints import AS_SENT, client_is_gone, errors_for_people, in_line, language_of, result_folder, uploads
from sisrm.ui.finished import FinishedExamples
from sisrm.ui.handlers import Handlers, Segmented, Upscaled
from sisrm.ui.html_part import STATIC
from sisrm.ui.jobs import Job
from sisrm.ui.modules import VARIANTS, compare, grid, run_variant, without
from sisrm.ui.page import Page
from sisrm.ui.progress import Update, Watch
from sisrm.ui.results import FORMAT, require_room
from sisrm.ui.semantic_panel import Edits, edits_of, region_of, seen
from sisrm.ui.settings import CONTROLS, Settings, presets
from sisrm.ui.showcase import Showcase
from sisrm.ui.showing import Showing
from sisrm.ui.shown import remember, shown
from sisrm.ui.texts import text
from sisrm.ui.uploads import open_upload, result_name, source_of

_SHOW = "() => ({__type__: 'update', visible: true})"
_FULL_LINK = "(link) => link && link.startsWith('?') ? location.origin + location.pathname + link : link"


class Events:
    """The page's answers. Each takes the request (or the event) first, then the values of the components as they came over the wire."""

    def __init__(self, handlers: Handlers, page: Page, showcase: Showcase | None, finished: FinishedExamples):
        self.handlers, self.page, self.showcase, self.finished = handlers, page, showcase, finished
        self.showing = Showing(handlers, page, showcase)
        self.choosing = Choosing(handlers, page)
        self._running: dict[str, set[Job]] = {}

    def connect(self, app: gr.Blocks) -> None:
        """Tie the answers to the components."""
        page, controls = self.page, self.page.controls
        common = {"api_visibility": "private", **AS_SENT}
        quiet = {"show_progress": "hidden", **common}
        # A visitor who waits sees the place in the queue and Gradio's estimate where the job's card will be.
        model = {"show_progress": "minimal", "show_progress_on": page.live, **in_line(self.handlers.seats.count)}
        settings = list(controls.settings.values())
        asked = [page.photo, page.panel, page.carried, controls.randomise, *settings]
        around = [page.made, page.download, page.both, page.link, page.panel, page.details, *page.hidden_at_first]
        busy = [page.live, page.run, page.sample, page.compare, page.cancel]
        absolute = {"fn": None, "js": _FULL_LINK, "inputs": [page.link], "outputs": [page.link], **quiet}

        enlarge = {
            "fn": self.enlarge,
            "inputs": [page.session, controls.format, *asked],
            "outputs": [page.comparison, page.session, controls.settings["seed"], page.carried, *busy, *around],
            **quiet,
            **model,
        }
        starts = [page.run.click, page.panel.submit, page.sample.click, page.compare.click]
        if page.picked is not None:
            starts.append(page.picked.load_input_event.success)
        for start in starts:  # who waits in the queue may give up too
            start(None, js=_SHOW, outputs=[page.cancel], **quiet)
        jobs = [page.run.click(**enlarge), page.panel.submit(**enlarge | {"fn": self.enlarge_shown})]
        if page.picked is not None:
            # Another example, chosen while one is enlarged, has its turn; a second click on a button has none.
            jobs.append(page.picked.load_input_event.success(**enlarge, trigger_mode="always_last"))
        jobs.append(
            page.sample.click(
                self.sample, [page.session, controls.format, page.point, *asked],
                [page.comparison, page.session, *busy, *around], **common, **model,
            )
        )  # fmt: skip
        for job in jobs:
            job.success(**absolute)
        jobs.append(page.compare.click(self.ablate, asked, [page.variants, *busy], **common, **model))
        for job in jobs:  # `then` alone is not run by the page after an error
            job.success(self.free, None, busy[1:], **quiet, queue=False)
            job.failure(self.failed, None, busy, **quiet, queue=False)
        page.cancel.click(self.stop, None, busy, cancels=jobs, **quiet, queue=False)
        page.comparison.select(self.showing.look_again, [page.session, controls.format], around, **quiet).then(
            **absolute
        )
        controls.format.input(
            self.showing.as_format, [page.session, page.details, controls.format], [page.download], **quiet
        )
        controls.preset.input(
            self.choosing.preset, [controls.preset], [controls.settings[name] for name in presets(self.handlers.defaults)["vivid"]], **quiet
        )  # fmt: skip
        page.photo.select(self.choosing.point_at, [page.photo], [page.point, page.live], **quiet)
        page.photo.change(self.choosing.another_photo, None, [page.point, page.variants], **quiet, queue=False)
        # Edits belong to a photo, and so does what was said of it. A result that is dropped in gives its settings back.
        gr.on([page.photo.upload, page.photo.clear], None, js="() => [null, '']", outputs=[page.panel, page.live], **quiet)
        restored = page.photo.upload(self.choosing.settings_of, [page.photo], [*settings, page.carried, page.live], **quiet)
        if self.handlers.model.live:  # on ZeroGPU it would take a call out of the visitor's day
            restored.then(
                self.look, [page.photo, page.carried, *settings], [page.panel, page.live], **{**model, **quiet},
                trigger_mode="always_last",
            )  # fmt: skip
        app.load(None, js=(STATIC / "page.js").read_text(encoding="utf-8"), **quiet)
        app.load(self.choosing.settings_of_link, None, [controls.preset, *settings, page.carried], **quiet)
        if self.showcase is not None:
            app.load(self.showing.example, None, [page.comparison, *around], **quiet).then(**absolute)

    async def enlarge(self, request: gr.Request, last, format, image, *asked) -> AsyncIterator[dict]:
        """Enlarge the photo, telling how it stands."""
        page, lang = self.page, language_of(request)
        with errors_for_people(lang):
            settings, edits, source = self._asked(image, lang, *asked)
            FORMAT.check("format", format)

            def work(watch: Watch) -> Upscaled:
                photo = open_upload(image, uploads())
                require_room(format, photo.size, settings.output_scale)
                # Of an example everybody gets the same file, whatever the first one called it.
                called = self.finished.name_of(photo)
                name = result_name({"orig_name": called} if called else image, settings.output_scale)
                if edits.region is None and (known := self.finished.get(photo, settings)) is not None:
                    return known
                with result_folder() as folder:
                    region = region_of(edits, folder)
                    done = self.handlers.upscale(photo, settings, folder, name, watch, region, states=True)
                if region is None:
                    self.finished.keep(photo, settings, done)
                return done

            async with aclosing(self._follow(request, work, lang)) as updates:
                async for update in updates:
                    yield self._busy(update, lang)
            if update.result is None:
                yield {page.live: note(text("cancelled", lang))}
                return
            latest = shown(update.result, source, lang, edits)
            # Other formats and the picture of both take a while for a large result, and other visitors must not wait for it.
            beside = await asyncio.to_thread(self.showing.beside, latest, lang, format)
            yield {
                page.comparison: latest.viewer,
                page.session: remember(last, latest),
                page.controls.settings["seed"]: settings.seed,
                page.carried: None,
                page.live: "",
                **beside,
            }

    async def enlarge_shown(self, request: gr.Request, last, format, image, panel, *asked) -> AsyncIterator[dict]:
        """Enlarge the photo that the panel shows, which is not the chosen one where an earlier result or the example is looked at."""
        source = panel.get("source") if isinstance(panel, dict) else None
        if source != source_of(image) and (photo := self.showing.photo_of(last, source)) is not None:
            image, panel = photo, {**panel, "source": source_of(photo)}
        async with aclosing(self.enlarge(request, last, format, image, panel, *asked)) as answers:
            async for answer in answers:
                yield answer

    async def look(self, request: gr.Request, image, carried, *values) -> dict:
        """What is in a photo that was just chosen, so that its labels can be changed before the first run, which does not look again."""
        page, lang = self.page, language_of(request)
        if image is None:
            return {page.panel: gr.skip()}
        try:
            with errors_for_people(lang):
                settings, edits, source = self._asked(image, lang, None, carried, False, *values)

                def work(watch: Watch) -> Segmented:
                    with result_folder() as folder:
                        return self.handlers.segment(
                            open_upload(image, uploads()), folder=folder, watch=watch, **settings.label_arguments()
                        )

                job, gone = Job(work, Watch(self.handlers.pace)), client_is_gone()
                async with aclosing(job.aupdates()) as updates:
                    async for update in updates:
                        last = update
                        if gone():
                            job.cancel()
        except Interrupted:
            return {page.panel: gr.skip()}
        except gr.Error as error:  # nobody has asked for anything yet: a line is enough
            return {page.live: note(html.unescape(str(error.message)))}
        return {page.panel: {**seen(last.result.report, last.result.views, source, edits), "first": True}}

    async def sample(self, request: gr.Request, last, format, point, image, *asked) -> AsyncIterator[dict]:
        """Enlarge the patch that the visitor pointed at."""
        page, lang = self.page, language_of(request)
        with errors_for_people(lang):
            settings, edits, source = self._asked(image, lang, *asked)
            FORMAT.check("format", format)
            at = tuple(point) if point else (0.5, 0.5)

            def work(watch: Watch) -> Upscaled:
                photo = open_upload(image, uploads())
                with result_folder() as folder:
                    region = region_of(edits, folder)
                    return preview(self.handlers, photo, settings, at, folder, watch=watch, region=region)

            async with aclosing(self._follow(request, work, lang)) as updates:
                async for update in updates:
                    yield self._busy(update, lang)
            if update.result is None:
                yield {page.live: note(text("cancelled", lang))}
                return
            patch = shown(update.result, f"{source}-{at}", lang, sample=True)
            beside = await asyncio.to_thread(self.showing.beside, patch, lang, format)
            yield {page.comparison: patch.viewer, page.session: remember(last, patch), page.live: "", **beside}

    async def ablate(self, request: gr.Request, image, *asked) -> AsyncIterator[dict]:
        """The same with each module taken out."""
        page, lang, found = self.page, language_of(request), {}
        with errors_for_people(lang):
            settings, edits, _ = self._asked(image, lang, *asked)
            photo = await asyncio.to_thread(open_upload, image, uploads())
            for number, name in enumerate(VARIANTS, 1):

                def work(watch: Watch, name=name) -> Upscaled:
                    with result_folder() as folder:
                        region = region_of(edits, folder)
                        return run_variant(self.handlers, photo, without(settings, name), folder, watch, region)

                more = text("variant", lang, number=number, total=len(VARIANTS), name=text(name, lang))
                async with aclosing(self._follow(request, work, lang)) as updates:
                    async for update in updates:
                        yield self._busy(update, lang, more)
                if update.result is None:
                    yield {page.live: note(text("cancelled", lang))}
                    return
                found[name] = update.result
                columns = [compare(known, done, found["full"]) for known, done in found.items()]
                yield {page.variants: await asyncio.to_thread(grid, columns, lang)}
            yield {page.live: ""}

    def stop(self, request: gr.Request) -> dict:
        """Cancel the visitor's job; the model is free again after the step or tile that it is at. One that waits leaves the queue."""
        for job in list(self._running.get(request.session_hash, ())):
            job.cancel()
        return {**self.free(), self.page.live: note(text("cancelled", language_of(request)))}

    def free(self) -> dict:
        """Whatever became of a job, another one can be started."""
        starts = (self.page.run, self.page.sample, self.page.compare)
        return {**{start: gr.update(interactive=True) for start in starts}, self.page.cancel: gr.update(visible=False)}

    def failed(self) -> dict:
        """`free` after an error, which the page shows: nothing goes on."""
        return {**self.free(), self.page.live: ""}

    def _asked(self, image, lang: str, panel, carried, randomise, *values) -> tuple[Settings, Edits, str]:
        """The checked settings, the panel's edits, and a name for the photo."""
        if image is None:
            raise gr.Error(text("no_photo", lang), print_exception=False)
        source = source_of(image)
        if carried and not (isinstance(panel, dict) and panel.get("source") == source):
            panel = {"source": source, "edits": carried}
        edits = edits_of(panel, source)
        given = dict(zip(self.page.controls.settings, values, strict=True))
        given |= {"extra_labels": list(edits.added), "muted_labels": list(edits.muted)}
        given["seed"] = None if randomise is True else given["seed"]
        given = {name: value for name, value in given.items() if name in CONTROLS}
        return self.handlers.check(given), edits, source

    async def _follow(self, request: gr.Request, work: Callable[[Watch], Any], lang: str) -> AsyncIterator[Update]:
        """The job's updates. Ends without a result where it was cancelled; a page that is left ends it."""
        job = Job(work, Watch(self.handlers.pace, previews=True))
        jobs = self._running.setdefault(request.session_hash, set())
        jobs.add(job)
        try:
            async with aclosing(job.aupdates()) as updates:
                async for update in updates:
                    yield update
        except Interrupted:
            yield Update()
        finally:
            jobs.discard(job)
            if not jobs:
                self._running.pop(request.session_hash, None)

    def _busy(self, update: Update, lang: str, more: str = "") -> dict:
        page = self.page
        return {
            page.live: card(update, lang, more),
            **{start: gr.update(interactive=False) for start in (page.run, page.sample, page.compare)},
            page.cancel: gr.update(visible=True),
        }
