#!/usr/bin/env python3
"""The page at `/` in headless Chromium, on a real server: `page.py BINARY [SCREENSHOTS]`.

Types as people do, by mouse and by keyboard alone, and compares what is seen with what the server says; looks for barriers by
axe-core, in light and dark, wide and narrow. What a server seldom does (refuse, answer late, be an older one) is put in between.
With a folder for SCREENSHOTS, writes the pictures of the README there. Needs Debian's `chromium`, and `playwright` and
`axe-playwright-python` from PyPI; without Chromium it says so and does nothing.
"""
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time

try:
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import expect, sync_playwright
except ImportError:
    sys.exit("page.py: pip install playwright axe-playwright-python")

CASE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "fixtures", "cases", "llama-0")
# Takes no time to load or to score; only the pictures are of the default model.
TINY = ["--model", os.path.join(CASE, "base"), "--adapter", "tiny=" + os.path.join(CASE, "adapter")]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
PROMPT = "How do I boil an egg?"
ANSWERS = ["Boil it for eight minutes, then peel it.", "egg wuth nad plo fthm qzrk vv"]
REWARDS, COMPARE, MODELS = "**/v1/rewards", "**/v1/compare", "**/v1/models"
WIDE, NARROW = {"width": 1280, "height": 1000}, {"width": 320, "height": 800}
expect.set_options(timeout=60_000)


@contextlib.contextmanager
def service(binary, *model):
    """A server on a free port."""
    process = subprocess.Popen([binary, "serve", *model, "--port", "0"], stderr=subprocess.PIPE, text=True)
    try:
        lines = iter(process.stderr.readline, "")
        url = next(found[0] for line in lines if (found := re.search(r"http://[\d.:]+", line)))
        next(line for line in lines if "model is warm" in line)
        yield url
    finally:
        process.terminate()
        process.communicate()


class Visit:
    """The page, opened anew; what it asked for, and what went wrong."""

    def __init__(self, browser, url, viewport=WIDE, scheme="light", routes=()):
        self.context = browser.new_context(viewport=viewport, color_scheme=scheme)
        self.page = self.context.new_page()
        self.requests, self.errors, self.replies = [], [], []
        self.page.on("request", lambda request: self.requests.append(request))
        self.page.on("response", lambda reply: reply.url.endswith("/rewards") and self.replies.append(reply))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        # What was refused on purpose is no error of the page.
        refused = "Failed to load resource"
        self.page.on("console", lambda said: said.type == "error" and refused not in said.text and self.errors.append(said.text))
        for pattern, handler in routes:
            self.page.route(pattern, handler)
        self.page.goto(url)
        expect(self.page.locator("#model option").first).to_be_attached()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            assert not self.errors, self.errors
            hosts = {request.url.split("/")[2] for request in self.requests}
            assert len(hosts) == 1, f"asked elsewhere: {hosts}"
        self.context.close()

    def __getitem__(self, selector):
        return self.page.locator(selector)

    def fill(self, prompt=PROMPT, answers=ANSWERS):
        self["#prompt"].fill(prompt)
        for index, answer in enumerate(answers):
            if index == self["#list textarea"].count():
                self["#add"].click()
            self["#list textarea"].nth(index).fill(answer)
        return self

    def scored(self, count):
        expect(self["#status"]).to_contain_text(re.compile(rf"^{count} candidates? scored in \d+ ms"))
        expect(self["#results"]).to_have_attribute("aria-busy", "false")
        return self

    def body(self):
        """What was last asked of `/v1/rewards`."""
        return [request.post_data_json for request in self.requests if request.url.endswith("/rewards")][-1]

    def ranking(self):
        rows = self["#ranking tbody tr"].all()
        return [[cell.strip() for cell in row.locator("th, td").all_inner_texts()] for row in rows]

    def barriers(self, where):
        """Fails if axe-core finds anything at all."""
        found = Axe().run(self.page)
        assert found.violations_count == 0, f"{where}: {found.generate_report()}"
        assert len(found.response["passes"]) > 10, "axe has looked at nothing"


def replying(status, body, headers=()):
    return lambda route: route.fulfill(status=status, json=body, headers=dict(headers))


def refusal(message, param=None, code="invalid_field"):
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


NO_COMPARE = (COMPARE, replying(404, refusal("no such route", code="not_found")))


def number(value):
    return f"{value:.2f}".replace("-", "−")


def shows_what_the_server_says(browser, url):
    with Visit(browser, url, routes=[NO_COMPARE]) as visit:
        visit.barriers("empty")
        visit.fill().scored(2)
        data = visit.replies[-1].json()["data"]
        ranked = sorted(data, key=lambda reward: -reward["score"])
        for rank, (reward, row) in enumerate(zip(ranked, visit.ranking(), strict=True), 1):
            name = "AB"[reward["index"]]
            assert row[0] == str(rank) and row[1].startswith(f"{name} {ANSWERS[reward['index']][:20]}"), row
            assert row[2:6] == [number(reward[field]) for field in ("score", "mean", "std", "contraction")], row
            assert row[7] == str(reward["tokens"]), row
        # The tiny adapter stores no rule.
        assert visit.replies[-1].json()["penalty"] == {"kind": "std", "k": 1.0}
        expect(visit["#applied"]).to_have_text("Score = mean − 1 × standard deviation.")
        chart = visit["#chart"]
        expect(chart).to_have_attribute("role", "img")
        expect(chart).to_have_attribute("aria-label", re.compile("best first: " + ", ".join("AB"[r["index"]] for r in ranked)))
        for mark in ("circle.mean", "path.score", "path.error-bar"):
            expect(chart.locator(mark)).to_have_count(2)
        best, highest = ("AB"[max(data, key=lambda reward: reward[field])["index"]] for field in ("score", "mean"))
        verdict = "by the mean." if best == highest else f"By the mean alone it would be {highest},"
        expect(visit["#verdict"]).to_contain_text(f"{best} leads")
        expect(visit["#verdict"]).to_contain_text(verdict)
        expect(visit["#requests tbody tr"].last).to_contain_text("/v1/rewards")
        visit.barriers("filled")


def a_command_gives_the_same(browser, url):
    with Visit(browser, url, routes=[NO_COMPARE]) as visit:
        visit.fill(answers=["It's 'quoted' \\ \"so\" $HOME `x`."]).scored(1)
        said = subprocess.run(["bash", "-c", visit["#curl"].inner_text()], capture_output=True, text=True, check=True).stdout
        shown, same = visit.replies[-1].json()["data"][0], json.loads(said)["data"][0]
        assert abs(shown["mean"] - same["mean"]) < 1e-3 and shown["tokens"] == same["tokens"], (shown, same)


def typing_is_scored_once_and_late_replies_are_dropped(browser, url):
    held = []
    with Visit(browser, url, routes=[NO_COMPARE, (REWARDS, lambda route: held.append(route))]) as visit:
        visit["#prompt"].press_sequentially(PROMPT, delay=20)
        visit["#list textarea"].first.press_sequentially("an early answer", delay=20)
        expect(visit["#results"]).to_have_attribute("aria-busy", "true")
        visit.page.wait_for_timeout(300)
        assert len(held) == 1, "one pause, one request"
        visit["#list textarea"].first.fill("a later answer")
        visit.page.wait_for_timeout(1000)
        assert len(held) == 2
        held[1].continue_()
        visit.scored(1)
        with contextlib.suppress(Exception):  # the page may have hung up on it
            held[0].fulfill(json={"data": [], "usage": {"tokens": 0}})
        visit.page.wait_for_timeout(300)
        assert visit.ranking()[0][1] == "A a later answer"
        visit["#live"].uncheck()
        visit["#prompt"].fill("nothing is sent")
        visit.page.wait_for_timeout(800)
        assert len(held) == 2, "not as I type"


def works_by_keyboard_alone(browser, url):
    with Visit(browser, url, routes=[NO_COMPARE]) as visit:
        press, focused = visit.page.keyboard.press, lambda: visit.page.evaluate("document.activeElement.id")
        press("Tab")
        assert visit.page.evaluate("document.activeElement.className") == "skip"
        for _ in range(3):
            press("Tab")
        assert focused() == "prompt", focused()
        visit.page.keyboard.type(PROMPT)
        press("Tab")  # the modes are one stop
        press("Tab")
        visit.page.keyboard.type("one answer")
        press("Tab")  # Remove
        press("Tab")
        visit.page.keyboard.type("another")
        press("Tab")
        press("Tab")
        assert focused() == "add"
        press("Enter")
        assert focused() == "candidate-2", "a new box has the focus"
        visit.page.keyboard.type("a third")
        press("Control+Enter")
        visit.scored(3)
        press("Tab")
        press("Enter")
        assert focused() == "candidate-1", "the focus goes on to the box before"
        expect(visit["#list textarea"]).to_have_count(2)
        visit.scored(2)
        seen = set()
        for _ in range(30):
            press("Tab")
            seen.add(visit.page.evaluate("document.activeElement.id || document.activeElement.ariaLabel"))
        assert {"model", "truncation", "penalty", "key", "live", "copy", "curl", "Ranking, as a table"} <= seen, seen


def errors_stand_at_their_fields(browser, url):
    with Visit(browser, url, routes=[NO_COMPARE]) as visit:
        visit.fill().scored(2)
        visit["#penalty"].select_option("std")
        visit["#k"].fill("-1")
        expect(visit["#k-error"]).to_contain_text("penalty.k: must be a finite number of at least 0")
        expect(visit["#k"]).to_have_attribute("aria-invalid", "true")
        expect(visit["#status"]).to_contain_text("what is shown is older")
        visit.barriers("an error")
        visit["#k"].fill("1")
        visit.scored(2)
        expect(visit["#k"]).not_to_have_attribute("aria-invalid", "true")
        visit["#list textarea"].nth(1).fill("long " * 600)
        expect(visit["#candidate-1-error"]).to_contain_text("tokens")
        visit["#list textarea"].nth(1).fill("short")
        expect(visit["#candidate-1-error"]).to_be_empty()
        # What the tiny adapter has not stored.
        visit["#penalty"].select_option("contraction")
        expect(visit["#penalty-error"]).to_contain_text("no stored spread of rewards")
        visit["#penalty"].select_option("shrink")
        expect(visit["#baseline-error"]).to_contain_text("no stored baseline")
        visit["#baseline"].fill("-2.5")
        visit.scored(2)
        expect(visit["#applied"]).to_have_text("Score = b + contraction × (mean − b), with the baseline b = −2.5.")


def each_penalty_has_its_numbers(browser, url):
    """The page sends what the kind reads, and nothing where the adapter's rule is to apply; it shows what the reply echoes."""
    data = [{"index": 0, "id": None, "mean": 1.0, "variance": 4.0, "std": 2.0, "contraction": 0.75, "score": -1.0, "novelty": 0.2,
             "variance_percentile": 0.3, "novel": False, "tokens": 3, "truncated": False}]
    own = {"kind": "contraction", "k": 8.0, "above": 0.9}
    stored = {"std": {"k": 1.0}, "variance": {"k": 1.0}, "contraction": {"k": 8.0}, "shrink": {"baseline": -1.0}}
    sent = []

    def echoing(route):
        sent.append(route.request.post_data_json)
        penalty = sent[-1].get("penalty", own)
        penalty = {**stored.get(penalty["kind"], {}), **penalty}
        route.fulfill(json={"data": data, "penalty": penalty, "usage": {"tokens": 3}})

    with Visit(browser, url, routes=[NO_COMPARE, (REWARDS, echoing)]) as visit:
        visit.fill(answers=["x"]).scored(1)
        applied = "Score = mean − 8 × spread × (1 − contraction), only above the held-out percentile 0.9."
        expect(visit["#applied"]).to_have_text(applied)
        assert "penalty" not in sent[-1] and sent[-1]["variance"] is True, sent[-1]
        for kind, field, value, applied in [
            ("std", "k", "2", "Score = mean − 2 × standard deviation."),
            ("variance", "k", "2.5", "Score = mean − 2.5 × variance."),
            ("contraction", "k", "4", "Score = mean − 4 × spread × (1 − contraction)."),
            ("shrink", "baseline", "-3", "Score = b + contraction × (mean − b), with the baseline b = −3."),
            ("kl", "beta", "0.1", "Score = mean − variance / (2 × 0.1)."),
            ("none", None, None, "Score = mean."),
        ]:
            visit["#penalty"].select_option(kind)
            for name in ("k", "baseline", "beta"):
                expect(visit[f"#{name}"]).to_be_visible(visible=name == field)
            if field:
                visit[f"#{field}"].fill(value)
            expect(visit["#applied"]).to_have_text(applied)
            want = {"kind": kind, field: float(value)} if field else {"kind": kind}
            assert sent[-1]["penalty"] == want, (sent[-1], want)
        visit["#penalty"].select_option("contraction")
        visit["#k"].fill("")
        expect(visit["#k"]).to_have_attribute("placeholder", "the adapter’s own")
        visit.page.wait_for_timeout(1000)
        assert sent[-1]["penalty"] == {"kind": "contraction"}, sent[-1]
        visit["#penalty"].select_option("kl")
        visit["#beta"].fill("")
        expect(visit["#beta-error"]).to_have_text("needed: a number above 0")
        visit.barriers("a penalty without its number")


def lines_are_candidates_too(browser, url):
    with Visit(browser, url, routes=[NO_COMPARE]) as visit:
        visit["[value=lines]"].check()
        lines = visit["#jsonl"]
        for text, want in [("\n{", "line 2: not JSON"), ('"x"', "line 1: has no prompt"), ("[1]", "line 1: neither"),
                           ('\n{"prompt": "p"}', "line 2: items[0].response: missing beside `prompt`")]:
            lines.fill(text)
            expect(visit["#jsonl-error"]).to_contain_text(want)
        visit.barriers("JSONL")
        pool = json.dumps({"prompt": PROMPT, "responses": ANSWERS})
        item = json.dumps({"id": "mine", "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]})
        visit["#file"].set_input_files({"name": "a.jsonl", "mimeType": "text/plain", "buffer": f"{pool}\n\n{item}\n".encode()})
        visit.scored(3)
        assert sorted(row[1] for row in visit.ranking())[2] == "C mine: Hello!"
        expect(visit["#source"]).to_contain_text("do not answer one prompt")


def preferences_are_joint_where_the_server_compares(browser, url):
    reply = {"preference_probability": [[0.5, 0.93], [0.07, 0.5]], "contraction_difference": [[None, 0.41], [0.41, None]],
             "usage": {"tokens": 9}}
    with Visit(browser, url, routes=[(COMPARE, replying(200, reply))]) as visit:
        visit.fill().scored(2)
        expect(visit["#source"]).to_contain_text("covariances included")
        names = [row[1][0] for row in visit.ranking()]
        cells = visit["#matrix tbody td"].all_inner_texts()
        assert sorted(cells) == ["7", "93", "–", "–"] and cells[1] == ("93" if names[0] == "A" else "7"), cells
        assert visit["#contractions tbody td"].all_inner_texts() == ["–", "0.41", "0.41", "–"]
        asked = next(request for request in visit.requests if request.url.endswith("/v1/compare"))
        assert asked.post_data_json == {"model": "tiny", "prompt": PROMPT, "responses": ANSWERS}
    with Visit(browser, url, routes=[NO_COMPARE]) as visit:
        visit.fill().scored(2)
        expect(visit["#source"]).to_contain_text("This server has no /v1/compare: variances are taken as independent")
        cells = [int(cell) for cell in visit["#matrix tbody td"].all_inner_texts() if cell != "–"]
        assert abs(sum(cells) - 100) <= 1, cells
        expect(visit["#contractions"]).to_be_hidden()
        visit["#penalty"].select_option("std")
        visit["#k"].fill("2")
        visit.scored(2)
        assert sum(request.url.endswith("/v1/compare") for request in visit.requests) == 1, "asked for again"


def models_without_variances_have_no_error_bars(browser, url):
    models = {"data": [{"id": "plain", "posterior": False}]}
    data = [{"index": i, "mean": float(i), "variance": None, "std": None, "contraction": None, "score": float(i), "novelty": None,
             "tokens": 3, "truncated": False} for i in range(2)]
    routes = [NO_COMPARE, (MODELS, replying(200, models)), (REWARDS, replying(200, {"data": data, "usage": {"tokens": 6}}))]
    with Visit(browser, url, routes=routes) as visit:
        expect(visit["#penalty"]).to_be_disabled()
        visit.fill().scored(2)
        assert visit.body() == {"model": "plain", "items": [{"prompt": PROMPT, "response": answer} for answer in ANSWERS]}
        assert [row[1][0] for row in visit.ranking()] == ["B", "A"]
        expect(visit["#chart path.error-bar"]).to_have_count(0)
        expect(visit["#source"]).to_contain_text("no variances")
        visit.barriers("without variances")


def what_is_unusual_is_marked(browser, url):
    data = [{"index": i, "mean": 1.0, "variance": 4.0, "std": 2.0, "contraction": contraction, "score": -1.0, "novelty": novelty,
             "novel": novel, "tokens": 3, "truncated": cut}
            for i, (contraction, novelty, novel, cut) in enumerate(
                [(0.9, 0.2, False, False), (0.5, 0.6, True, True), (None, None, None, False)])]
    with Visit(browser, url, routes=[NO_COMPARE, (REWARDS, replying(200, {"data": data, "usage": {"tokens": 9}}))]) as visit:
        visit.fill(answers=["x", "y", "z"]).scored(3)
        want = [["0.90", "0.20", "3"], ["0.50", "unusual 0.60", "3, cut"], ["–", "–", "3"]]
        assert [row[5:] for row in visit.ranking()] == want, visit.ranking()


def a_key_is_sent_and_nowhere_kept(browser, url):
    def guarded(route):
        known = route.request.headers.get("authorization") == "Bearer s3cret"
        route.continue_() if known else route.fulfill(status=401, json=refusal("an API key is needed", code="unauthorized"))

    context = browser.new_context(viewport=WIDE)
    page = context.new_page()
    page.route("**/v1/**", guarded)
    page.goto(url)
    expect(page.locator("#key-error")).to_have_text("an API key is needed")
    page.locator("#key").fill("s3cret")
    expect(page.locator("#model option")).to_have_count(1)
    expect(page.locator("#key-error")).to_be_empty()
    page.locator("#prompt").fill(PROMPT)
    page.locator("#list textarea").first.fill("x")
    expect(page.locator("#status")).to_contain_text("scored in")
    expect(page.locator("#curl")).to_contain_text("Bearer $REWARDEN_API_KEY")
    assert "s3cret" not in page.content() and "s3cret" not in page.url
    assert context.storage_state() == {"cookies": [], "origins": []}
    context.close()


def what_is_overloaded_is_asked_again(browser, url):
    times = []

    def busy_at_first(route):
        times.append(time.monotonic())
        if len(times) > 1:
            return route.continue_()
        route.fulfill(status=503, json=refusal("too much is waiting", code="overloaded"), headers={"retry-after": "1"})

    with Visit(browser, url, routes=[NO_COMPARE, (REWARDS, busy_at_first)]) as visit:
        visit.fill(answers=["x"])
        expect(visit["#problem"]).to_have_text("too much is waiting; trying again in 1 s")
        visit.scored(1)
        expect(visit["#problem"]).to_be_empty()
        assert times[1] - times[0] > 0.9
        visit.page.unroute(REWARDS)
        visit.page.route(REWARDS, lambda route: route.abort())
        visit["#form [type=submit]"].click()
        expect(visit["#problem"]).to_have_text("the server does not answer")


def luminance(visit):
    colour = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, re.findall(r"\d+", colour)))


def is_light_and_dark_wide_and_narrow(browser, url):
    brightness = {}
    for scheme in ("light", "dark"):
        with Visit(browser, url, scheme=scheme, routes=[NO_COMPARE]) as visit:
            visit["#example"].click()
            visit.scored(3).barriers(f"{scheme}, wide")
            brightness[scheme] = luminance(visit)
    assert brightness["light"] > 600 > 200 > brightness["dark"], brightness
    with Visit(browser, url, viewport=NARROW, scheme="dark", routes=[NO_COMPARE]) as visit:
        visit["[value=lines]"].check()
        visit["#prompt"].fill(PROMPT)
        visit["#jsonl"].fill("\n".join(json.dumps(f"Answer {i}: {'water, ' * (i % 5)}eggs.") for i in range(20)))
        visit.scored(20).barriers("narrow, dark, of twenty")
        expect(visit["#matrix tbody tr"]).to_have_count(20)
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"], "wider than the window"


def take_pictures(browser, url, folder):
    for scheme in ("light", "dark"):
        with Visit(browser, url, scheme=scheme) as visit:
            visit["#example"].click()
            visit.scored(3)
            expect(visit["#source"]).not_to_contain_text("Until")
            visit.page.evaluate("document.activeElement.blur()")
            visit.page.wait_for_timeout(400)
            visit.page.screenshot(path=os.path.join(folder, f"page-{scheme}.png"))


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__.strip())
    if CHROMIUM is None:
        print("skipped: no Chromium (hint: apt install chromium)")
        return
    checks = [shows_what_the_server_says, a_command_gives_the_same, typing_is_scored_once_and_late_replies_are_dropped,
              works_by_keyboard_alone, errors_stand_at_their_fields,
              each_penalty_has_its_numbers, lines_are_candidates_too,
              preferences_are_joint_where_the_server_compares, models_without_variances_have_no_error_bars,
              what_is_unusual_is_marked, a_key_is_sent_and_nowhere_kept, what_is_overloaded_is_asked_again,
              is_light_and_dark_wide_and_narrow]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        with service(sys.argv[1], *TINY) as url:
            for check in checks:
                check(browser, url)
                print(check.__name__.replace("_", " "))
        if len(sys.argv) == 3:
            with service(sys.argv[1]) as url:
                take_pictures(browser, url, sys.argv[2])
        browser.close()


if __name__ == "__main__":
    main()
